"""How long a start should take here: learned from this host's own runs. Pure.

A start that is past its budget is not ended for that alone: the supervisor ends it when, besides,
nothing happens in it any more. What it may take in all stays the profile's `start_timeout_s`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from launcher.plan.calibration import Observed
from launcher.plan.decision import Decision

LATEST: Final = 5
"""Verified starts looked at, newest first."""
FACTOR: Final = 3.0
"""Times the slowest of them: a first import after a reboot took 42 s instead of 12 (measured)."""
LEAST_S: Final = 60.0
"""Seconds below which no budget goes."""


def learned(
    runs: Iterable[Observed], *, fingerprint: str, version: str, device: str, limit_s: float
) -> Decision[float] | None:
    """Budget in seconds for a start until healthy; None: nothing known.

    Args:
        runs: this host's verified runs, newest first.
        fingerprint: of the checkpoint that is started.
        version: SGLang's version.
        device: cpu or cuda.
        limit_s: `start_timeout_s`; no budget is above it.
    """
    found: list[float] = []
    for run in runs:
        same = (run.plan.fingerprint, run.plan.engine.version, run.plan.device)
        if run.ready_s is not None and same == (fingerprint, version, device):
            found.append(run.ready_s)
        if len(found) == LATEST:
            break
    if not found:
        return None
    budget = min(limit_s, max(LEAST_S, FACTOR * max(found)))
    starts = "the last start" if len(found) == 1 else f"the slowest of the last {len(found)} starts"
    return Decision(round(budget, 1), (f"{FACTOR:g} times {starts} here ({max(found):.1f} s)",))
