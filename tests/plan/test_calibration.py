"""A host's own runs stand in the place of figures measured elsewhere, and the plan says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from launcher.documents.plan import StartMethod, Term, engine_parts
from launcher.plan.calibration import Observed, base_bytes, calibrate
from launcher.plan.memory import error
from launcher.plan.resolve import make_plan
from tests.plan.inputs import inputs, qwen3
from tests.samples import plan

MB = 1_000_000


def observed(
    base: int, *, replicas: int = 1, method: StartMethod = "fork", **changes: Any
) -> Observed:
    """A run whose engine took `base` bytes beside the model."""
    terms: tuple[Term, ...] = (
        _term("weights", 45 * MB, "computed", "model"),
        _term("largest batch", 170 * MB, "computed", "model", reserve=True),
        _term("whatever it is called", 290 * MB, "measured", "engine", start_method=method),
    )
    if replicas > 1:
        terms += (_term("engine: 1 more", 120 * MB, "measured", "replicas", start_method=method),)
    changes["expectation"] = {"replicas": replicas}
    changes["predicted"] = {"terms": changes.pop("terms", terms)}
    return Observed(plan(**changes), peak_bytes=base + 45 * MB, began="2026-11-22T10:00:00Z")


def _term(name: str, size: int, basis: Any, kind: Any, **changes: Any) -> Term:
    return Term(name=name, device="ram", bytes=size, basis=basis, source="", kind=kind, **changes)


SAME: Any = {"version": "0.5.23", "method": "fork", "model": "encoder"}


def test_the_base_is_the_peak_less_what_was_computed() -> None:
    assert base_bytes(observed(700 * MB), **SAME) == 700 * MB


@pytest.mark.parametrize(
    "run",
    [
        observed(700 * MB, engine={"version": "0.5.22"}),
        observed(700 * MB, method="spawn"),
        observed(700 * MB, device="cuda"),
        observed(-50 * MB),
        observed(700 * MB, model_kind="decoder"),
        observed(700 * MB, model_kind=None),
        observed(700 * MB, replicas=2),
        observed(700 * MB, terms=()),
    ],
    ids=[
        "other version",
        "other start method",
        "gpu",
        "no sense",
        "decoder",
        "earlier version",
        "replicas",
        "no terms",
    ],
)
def test_runs_that_say_nothing_are_passed_over(run: Observed) -> None:
    assert base_bytes(run, **SAME) is None


def test_two_runs_are_not_enough_and_the_median_of_more_decides() -> None:
    runs = [observed(base * MB) for base in (700, 5000, 720)]
    assert calibrate(runs[:2], **SAME) is None
    found = calibrate(runs, **SAME)
    assert found is not None
    assert (found.base_bytes, found.runs) == (720 * MB, 3)


def test_a_plan_uses_the_hosts_own_figures_and_says_so() -> None:
    none = {"QLAUNCH_KV_CACHE": "none", "QLAUNCH_DETOKENIZER": "none"}
    alike: Any = {"engine": {"env": none}, "template": True}
    cached = {**alike, "engine": {"env": {"QLAUNCH_DETOKENIZER": "none"}}}
    runs = tuple(observed(base * MB, **alike) for base in (700, 710, 720))
    with_cache = tuple(observed(base * MB, **cached) for base in (700, 710, 720))
    plain, own = make_plan(inputs()), make_plan(replace(inputs(), observed=runs))
    [term] = [t for t in own.predicted.terms if t.kind == "engine"]
    assert term.bytes == 710 * MB
    assert "this host" in term.source
    assert any("3 runs" in reason for reason in own.reasons)
    assert not any("on this host" in reason for reason in plain.reasons)
    # Not all of a cache's pages are touched by the smoke: beside one the base looks smaller.
    assert make_plan(replace(inputs(), observed=with_cache)).predicted == plain.predicted


@pytest.mark.parametrize(
    "other",
    [
        {"template": False, "engine": {"env": {"QLAUNCH_DETOKENIZER": "none"}}},
        {"template": True},
    ],
    ids=["no template", "a detokenizer"],
)
def test_runs_with_other_processes_do_not_count(other: dict[str, Any]) -> None:
    parts = engine_parts(detokenizer=False, template=True)
    alike: dict[str, Any] = {"template": True, "engine": {"env": {"QLAUNCH_DETOKENIZER": "none"}}}
    assert calibrate([observed(700 * MB, **alike)] * 3, **SAME, parts=parts) is not None
    assert calibrate([observed(700 * MB, **other)] * 3, **SAME, parts=parts) is None


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_runs_with_replicas_calibrate_plans_with_as_many(method: StartMethod) -> None:
    """They never did: the base was told by how terms are called, and the replicas' term began
    with `engine` and named no start method."""
    given = replace(inputs(start_method=method), extra=("--dp-size", "2"))
    first = make_plan(given)
    peak = (first.predicted.ram_bytes or 0) + 50 * MB
    runs = tuple(Observed(first, peak_bytes=peak, began="2026-11-22") for _ in range(3))
    again = make_plan(replace(given, observed=runs))
    assert again.predicted.ram_bytes == peak
    assert {term.kind for term in again.predicted.terms} == {"model", "engine", "requests"}
    assert any("3 runs" in reason for reason in again.reasons)
    alone = make_plan(replace(inputs(start_method=method), observed=runs))
    assert not any("3 runs" in reason for reason in alone.reasons)


def test_a_decoder_that_pools_whole_texts_calibrates_as_a_decoder() -> None:
    """It was recorded as an encoder, for what the smoke checks, and so counted among their runs."""
    model = qwen3(pooling="mean")
    first = make_plan(inputs(model=model))
    assert first.expectation.encoder
    assert first.model_kind == "decoder"
    peak = first.predicted.ram_bytes or 0
    runs = [Observed(first, peak_bytes=peak, began="2026-11-22") for _ in range(3)]
    same = {**SAME, "cached": False, "parts": first.parts}
    assert calibrate(runs, **same) is None
    assert calibrate(runs, **{**same, "model": "decoder"}) is not None


@pytest.mark.parametrize(
    ("predicted", "measured", "wanted"),
    [(110, 100, 0.1), (90, 100, -0.1), (None, 100, None), (100, None, None), (100, 0, None)],
)
def test_the_error_is_a_share_of_what_was_measured(
    predicted: int | None, measured: int | None, wanted: float | None
) -> None:
    assert error(predicted, measured) == pytest.approx(wanted)
