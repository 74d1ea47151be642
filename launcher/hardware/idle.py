"""How much of the processors is free: before a measurement nobody else should be at work."""

from __future__ import annotations

import time
from pathlib import Path

QUIET = 0.9
"""Share of the processors that should be idle before a measurement."""


def idle_share(seconds: float, root: Path = Path("/")) -> float | None:
    """Share of all processors' time that was idle, 0 to 1; None where /proc does not tell."""
    before = _times(root)
    time.sleep(seconds)
    after = _times(root)
    if before is None or after is None or after[1] <= before[1]:
        return None
    return round((after[0] - before[0]) / (after[1] - before[1]), 3)


def _times(root: Path) -> tuple[int, int] | None:
    """Idle and total clock ticks since boot: the first line of /proc/stat (proc_stat(5))."""
    try:
        line = (root / "proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
        ticks = [int(word) for word in line.split()[1:9]]
    except (OSError, ValueError):
        return None
    return (ticks[3] + ticks[4], sum(ticks)) if len(ticks) > 4 else None
