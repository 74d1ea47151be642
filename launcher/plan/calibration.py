"""What this host's own run records say of the engine's base memory. Pure.

A run says something when it was verified and its memory was measured as PSS. The base is the
measured peak until verified less the terms that were computed from checkpoint and flags; the
median over a host's latest runs of the same engine version, start method, number of replicas and
kind of model (an encoder's engine takes more than a decoder's) stands in the place of the figures
we measured elsewhere. With replicas it holds all their processes.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from launcher.documents.plan import (
    Calibration,
    EnginePart,
    ModelKind,
    Plan,
    StartMethod,
)
from launcher.plan.memory import PARTS
from launcher.units import counted

LATEST: Final = 20
"""Runs looked at, newest first: an environment that changed is forgotten soon."""
ENOUGH: Final = 3
"""Runs below which one odd figure would decide."""


@dataclass(frozen=True)
class Observed:
    """One verified run of this host, measured as PSS."""

    plan: Plan
    peak_bytes: int
    """Peak RAM of the engine's tree from the start until verified."""
    began: str
    """ISO 8601."""
    ready_s: float | None = None
    """From `up` to the first healthy answer; None where the record does not say."""


def calibrate(
    runs: Iterable[Observed],
    *,
    version: str,
    method: StartMethod,
    model: ModelKind,
    replicas: int = 1,
    cached: bool = True,
    parts: frozenset[EnginePart] = PARTS,
) -> Calibration | None:
    """The calibration for such an engine, or None where too few runs were one.

    Args:
        runs: this host's records, newest first.
        version: SGLang's version.
        method: how the engine's processes are started.
        model: kind of the model.
        replicas: schedulers side by side.
        cached: whether it has a cache of keys and values. Not all of a cache's pages are touched
            by the smoke, so a base found beside one is too small for an engine without.
        parts: its processes.
    """
    bases: list[tuple[int, str]] = []
    for run in runs:
        if run.plan.has_kv_cache is not cached or run.plan.parts != parts:
            continue
        base = base_bytes(run, version=version, method=method, model=model, replicas=replicas)
        if base is not None:
            bases.append((base, run.began))
        if len(bases) == LATEST:
            break
    if len(bases) < ENOUGH:
        return None
    days = sorted(began[:10] for _base, began in bases)
    when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    return Calibration(
        base_bytes=int(statistics.median(base for base, _began in bases)),
        runs=len(bases),
        source=f"median of {counted(len(bases), 'run')}, {when}",
    )


def base_bytes(
    run: Observed, *, version: str, method: StartMethod, model: ModelKind, replicas: int = 1
) -> int | None:
    """The engine's processes without models in one run, bytes; None if it says nothing of them."""
    plan = run.plan
    same = (plan.device, plan.engine.version, plan.model_kind, plan.expectation.replicas)
    if same != ("cpu", version, model, replicas):
        return None
    terms = plan.predicted.terms
    # Records of earlier versions do not say what a term is of.
    if {term.start_method for term in terms if term.kind == "engine"} != {method}:
        return None
    others = sum(
        term.bytes
        for term in terms
        if not term.reserve and (term.basis == "computed" or term.kind in ("options", "gateway"))
    )
    base = run.peak_bytes - others
    return base if base > 0 else None
