"""A host's own runs stand in the place of figures measured elsewhere, and the plan says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from launcher.plan.calibration import Observed, base_bytes, calibrate
from launcher.plan.memory import error
from launcher.plan.resolve import make_plan
from tests.plan.inputs import inputs

MB = 1_000_000


def observed(
    base: int,
    *,
    method: str = "fork",
    version: str = "0.5.23",
    encoder: bool = True,
    **plan: Any,
) -> Observed:
    terms = [
        {"name": "weights", "bytes": 45 * MB, "basis": "computed"},
        {"name": "largest batch", "bytes": 170 * MB, "basis": "computed", "reserve": True},
        {"name": f"engine: front ({method})", "bytes": 290 * MB, "basis": "measured"},
    ]
    found = {
        "device": "cpu",
        "engine": {"version": version},
        "predicted": {"terms": terms},
        "expectation": {"encoder": encoder},
    }
    return Observed(found | plan, peak_bytes=base + 45 * MB, began="2026-11-22T10:00:00Z")


def test_the_base_is_the_peak_less_what_was_computed() -> None:
    assert base_bytes(observed(700 * MB), version="0.5.23", method="fork", encoder=True) == 700 * MB


@pytest.mark.parametrize(
    "run",
    [
        observed(700 * MB, version="0.5.22"),
        observed(700 * MB, method="spawn"),
        observed(700 * MB, device="cuda"),
        observed(-50 * MB),
        observed(700 * MB, encoder=False),
        Observed({}, peak_bytes=1, began=""),
    ],
    ids=["other version", "other start method", "gpu", "no sense", "decoder", "empty plan"],
)
def test_runs_that_say_nothing_are_passed_over(run: Observed) -> None:
    assert base_bytes(run, version="0.5.23", method="fork", encoder=True) is None


def test_two_runs_are_not_enough_and_the_median_of_more_decides() -> None:
    runs = [observed(base * MB) for base in (700, 5000, 720)]
    assert calibrate(runs[:2], version="0.5.23", method="fork", encoder=True) is None
    found = calibrate(runs, version="0.5.23", method="fork", encoder=True)
    assert found is not None
    assert (found.base_bytes, found.runs) == (720 * MB, 3)


def test_a_plan_uses_the_hosts_own_figures_and_says_so() -> None:
    runs = tuple(observed(base * MB) for base in (700, 710, 720))
    plain, own = make_plan(inputs()), make_plan(replace(inputs(), observed=runs))
    term = next(t for t in own.predicted.terms if t.name.startswith("engine"))
    assert term.bytes == 710 * MB
    assert "this host" in term.source
    assert any("3 runs" in reason for reason in own.reasons)
    assert not any("on this host" in reason for reason in plain.reasons)


@pytest.mark.parametrize(
    ("predicted", "measured", "wanted"),
    [(110, 100, 0.1), (90, 100, -0.1), (None, 100, None), (100, None, None), (100, 0, None)],
)
def test_the_error_is_a_share_of_what_was_measured(
    predicted: int | None, measured: int | None, wanted: float | None
) -> None:
    assert error(predicted, measured) == pytest.approx(wanted)
