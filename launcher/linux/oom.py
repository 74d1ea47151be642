"""Whether the kernel's out-of-memory killer was at work: exit status 137 alone proves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from launcher.linux.cgroup import groups
from launcher.linux.pseudofiles import read_text

_COUNTERS = {1: "memory.oom_control", 2: "memory.events"}
"""By version of the control groups: the file with the line `oom_kill N`."""


def oom_kills(root: Path = Path("/")) -> int | None:
    """Processes that the kernel has killed for memory so far, or None where it does not count.

    The counter of this process's own control group, or of the nearest one above it that counts,
    else the machine's (/proc/vmstat, Linux ≥ 4.13). Compare two readings.

    Args:
        root: where `/` is; fixture trees in tests.
    """
    for path in _counters(root):
        for line in (read_text(path) or "").splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill" and value.strip().isdecimal():
                return int(value)
    return None


def _counters(root: Path) -> Iterator[Path]:
    for group in groups(root, "memory"):
        yield group.path / _COUNTERS[group.version]
    yield root / "proc/vmstat"
