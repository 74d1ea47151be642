"""Memory and processor time of a process tree, read from /proc."""

from __future__ import annotations

import time

from benchmarks.errors import BenchError
from launcher.linux import procfs

_PROC = "/proc"


def pss_bytes(leader: int) -> int:
    """Proportional set size of the leader and all its descendants, in bytes.

    Raises:
        BenchError: the tree is gone, or the memory of one of its processes cannot be read.
    """
    found = [procfs.pss_bytes(_PROC, stat.pid) for stat in procfs.tree(_PROC, leader)]
    known = [value for value in found if value is not None]
    if not known or len(known) < len(found):
        raise BenchError("the memory of the engine's processes cannot be read")
    return sum(known)


def rss_bytes(pid: int) -> int:
    """Resident set size of one process, in bytes.

    Raises:
        BenchError: there is no such process.
    """
    found = procfs.rss_bytes(_PROC, pid)
    if found is None:
        raise BenchError("the memory of a process cannot be read")
    return found


class CpuMeter:
    """Processor time that trees use from now on; a process that ends meanwhile is not counted."""

    def __init__(self, *leaders: int) -> None:
        self._leaders = leaders
        self._before = {leader: _ticks(leader) for leader in leaders}
        self._began = time.monotonic()

    def percent(self, leader: int, *, alone: bool = False) -> float:
        """Mean use since the meter was made, of the tree or its leader alone; 100 is one core."""
        return 100 * self.used_s(leader, alone=alone) / (time.monotonic() - self._began)

    def used_s(self, leader: int, *, alone: bool = False) -> float:
        """Processor seconds since the meter was made, of the tree or its leader alone."""
        after, before = _ticks(leader), self._before[leader]
        if alone:
            after = {key: ticks for key, ticks in after.items() if key[0] == leader}
        used = sum(ticks - before.get(key, 0) for key, ticks in after.items())
        return used / procfs.TICKS_PER_S


def _ticks(leader: int) -> dict[tuple[int, int], int]:
    return {(stat.pid, stat.start_ticks): stat.cpu_ticks for stat in procfs.tree(_PROC, leader)}
