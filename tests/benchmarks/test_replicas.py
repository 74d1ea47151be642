"""The rows of the replicas' benchmark, from figures that are made up."""

from __future__ import annotations

from benchmarks.levels import Measured
from benchmarks.replicas import CLIENTS, OURS, WAYS, Figures, rows


def figures(ours: float) -> Figures:
    rates = {way: ours if way == OURS else 100.0 for way in WAYS}
    return {
        way: {clients: Measured(per_s=[rate] * 2, p95_ms=[1.0] * 2) for clients in CLIENTS}
        for way, rate in rates.items()
    }


def test_only_the_throughput_beside_one_engine_under_load_is_judged() -> None:
    judged = {row.name: row.ok for row in rows(figures(150.0)) if row.ok is not None}
    assert judged == {"beside one engine, 16 clients": True}
    assert len(rows(figures(150.0))) == 2 * 2 * len(CLIENTS)


def test_less_than_was_wanted_is_missed() -> None:
    (missed,) = [row for row in rows(figures(120.0)) if row.ok is False]
    assert missed.ratio is not None
    assert missed.ratio.median == 1.2
