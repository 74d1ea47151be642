"""What this host's own run records say of the engine's base memory. Pure.

A run says something when it was verified and its memory was measured as PSS. The base is the
measured peak until verified less the terms that were computed from checkpoint and flags; the
median over a host's latest runs of the same engine version, start method and kind of model (an
encoder's engine takes more than a decoder's) stands in the place of the figures we measured
elsewhere.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from launcher.documents.plan import Calibration

LATEST: Final = 20
"""Runs looked at, newest first: an environment that changed is forgotten soon."""
ENOUGH: Final = 3
"""Runs below which one odd figure would decide."""


@dataclass(frozen=True)
class Observed:
    """One verified run of this host, measured as PSS."""

    plan: Mapping[str, Any]
    """The plan as its record holds it."""
    peak_bytes: int
    """Peak RAM of the engine's tree from the start until verified."""
    began: str
    """ISO 8601."""
    ready_s: float | None = None
    """From `up` to the first healthy answer; None where the record does not say."""


def calibrate(
    runs: Iterable[Observed], *, version: str, method: str, encoder: bool
) -> Calibration | None:
    """The calibration for engine `version` started by `method` (fork, spawn), or None.

    Args:
        runs: this host's records, newest first.
        version: SGLang's version.
        method: how the engine's processes were started.
        encoder: whether the model is an encoder.
    """
    found: list[tuple[int, str]] = []
    for run in runs:
        base = base_bytes(run, version=version, method=method, encoder=encoder)
        if base is not None:
            found.append((base, run.began))
        if len(found) == LATEST:
            break
    if len(found) < ENOUGH:
        return None
    days = sorted(began[:10] for _base, began in found)
    when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    return Calibration(
        base_bytes=int(statistics.median(base for base, _began in found)),
        runs=len(found),
        source=f"median of {len(found)} runs, {when}",
    )


def base_bytes(run: Observed, *, version: str, method: str, encoder: bool) -> int | None:
    """The engine's processes without a model in one run, bytes; None if it says nothing."""
    engine = run.plan.get("engine") or {}
    terms: list[dict[str, Any]] = (run.plan.get("predicted") or {}).get("terms") or []
    if run.plan.get("device") != "cpu" or engine.get("version") != version:
        return None
    if (run.plan.get("expectation") or {}).get("encoder") is not encoder:
        return None
    base = [term for term in terms if str(term.get("name", "")).startswith("engine")]
    if not base or not all(f"({method})" in str(term.get("name")) for term in base):
        return None
    computed = sum(
        int(term.get("bytes", 0))
        for term in terms
        if term.get("basis") == "computed" and not term.get("reserve")
    )
    found = run.peak_bytes - computed
    return found if found > 0 else None
