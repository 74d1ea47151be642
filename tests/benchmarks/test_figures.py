from __future__ import annotations

import math
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import figures, run, table
from benchmarks.figures import (
    Report,
    Row,
    compared,
    markdown,
    number,
    ratios,
    single,
    spread,
    words,
)
from benchmarks.phases import Starts, of_run, rows

POSITIVE = st.floats(min_value=1e-3, max_value=1e6)
MACHINE = {
    "cpu": "A CPU",
    "instruction_sets": [],
    "threads": 2,
    "ram_bytes": 2**34,
    "system": "Linux",
    "machine": "x86_64",
    "idle_before": 0.98,
}


def report(name: str = "start", *, quick: bool = False, found: tuple[Row, ...] = ()) -> Report:
    return Report(
        benchmark=name,
        title=name,
        ours="ours",
        other="other",
        quick=quick,
        machine=MACHINE,
        rows=found,
        notes=("A note.",),
    )


def test_nothing_measured_is_no_figure() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        spread([])


@pytest.mark.parametrize("other", [[0.0], [-1.0]])
def test_a_ratio_to_nothing_is_refused(other: list[float]) -> None:
    with pytest.raises(ValueError, match="not positive"):
        ratios([1.0], other)


def test_a_pair_that_misses_its_partner_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratios([1.0, 2.0], [1.0])


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=9))
def test_a_ratio_lies_between_the_least_and_the_most_pair(pairs: list[tuple[float, float]]) -> None:
    row = compared("x", "s", [a for a, _ in pairs], [b for _, b in pairs], "at most", 0.75)
    assert row.ratio is not None
    assert row.ratio.least <= row.ratio.median <= row.ratio.most
    assert row.ok is (row.ratio.median <= 0.75)


def test_ratios_are_of_neighbours_not_of_medians() -> None:
    # A machine that slows down by half from pair to pair: every pair says 0.5.
    row = compared("x", "s", [1, 2, 4], [2, 4, 8])
    assert row.ratio == spread([0.5, 0.5, 0.5])


@pytest.mark.parametrize(
    ("relation", "limit", "ok"),
    [("at most", 2.0, True), ("at most", 1.9, False), ("at least", 2.0, True)],
)
def test_a_single_row_is_judged_by_its_median(
    relation: figures.Relation, limit: float, ok: bool
) -> None:
    assert single("x", "s", [1.0, 2.0, 90.0], relation, limit).ok is ok


def test_a_row_without_a_target_is_not_judged() -> None:
    row = single("x", "s", [1.0])
    assert (row.wanted, row.ok) == (None, None)
    assert report(found=(row,)).missed == ()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0754, "0.075"), (1.234, "1.23"), (13.84, "13.8"), (155.6, "156"), (7048, "7048")],
)
def test_numbers_have_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert number(value) == text


def test_one_value_has_no_range_and_none_is_a_dash() -> None:
    assert words(spread([2.0]), "s") == "2.00 s"
    assert words(spread([1.0, 2.0, 3.0]), "×") == "2.00 × (1.00 – 3.00)"
    assert words(None, "s") == "–"


def test_a_missed_target_shows_in_the_table() -> None:
    lines = markdown(report(found=(compared("x", "s", [3.0], [2.0], "at most", 0.75),)))
    assert lines[2] == "| x | 3.00 s | 2.00 s | 1.50 × | ≤ 0.75 × | **no** |"
    assert lines[-1] == "- A note."
    assert {line.count("|") for line in lines[:3]} == {7}


def test_figures_survive_their_file_and_quick_ones_are_no_results(tmp_path: Path) -> None:
    row = compared("x", "s", [1 / 3], [2.0], "at most", 0.75)
    run.keep(report("start", found=(row,)), tmp_path / "results")
    run.keep(report("cli", quick=True), tmp_path / "results")
    (found,) = table.load(tmp_path / "results")
    assert found.rows[0].ours.median == 0.33333
    assert found.rows[0].ok is True
    heading, _, measured_on, *_ = table.section(found)
    assert heading == "### start"
    assert "A CPU, 2 threads (no vector extensions known); 17.2 GB of RAM" in measured_on
    assert "at least 98 % idle before" in measured_on


def test_results_of_another_version_are_left_out(tmp_path: Path) -> None:
    old = msgspec.structs.replace(report(), version=figures.VERSION + 1)
    run.keep(old, tmp_path)
    assert table.load(tmp_path) == []


def test_rounding_keeps_what_is_not_a_float() -> None:
    value = {"a": [1, True, None, "x", (1.0000001, math.pi)]}
    assert run.rounded(value) == {"a": [1, True, None, "x", [1.0, 3.14159]]}


RECORD = {
    "phases": [
        {"name": "starting", "t_s": 0.2},
        {"name": "loading", "t_s": 10.0},
        {"name": "warming", "t_s": 11.0},
        {"name": "verifying", "t_s": 13.0},
        {"name": "ready", "t_s": 15.0},
    ],
    "timings": {"ready_s": 12.9, "verified_s": 15.0},
}


def test_the_steps_of_a_start_add_up_to_the_whole() -> None:
    ours, bare = Starts(), Starts()
    ours.add(15.3, of_run(RECORD))
    bare.add(20.0, {"starting": 0.0, "loading": 17.0, "warming": 18.0, "healthy": 20.0})
    found = rows(ours, bare)
    assert sum(row.ours.median for row in found) == pytest.approx(15.3)
    assert sum(row.other.median for row in found if row.other) == pytest.approx(20.0)
    assert ours.healthy == pytest.approx([15.3 - 2.1])
    assert bare.healthy == [20.0]


def test_a_phase_that_the_log_did_not_show_is_left_out() -> None:
    ours, bare = Starts(), Starts()
    ours.add(15.3, of_run(RECORD))
    bare.add(20.0, {"starting": 0.0, "healthy": 20.0})
    found = rows(ours, bare)
    assert [row.other is None for row in found] == [True] * len(found)
