"""The few figures of /proc that samples and supervisors need, read with as little work as possible.

Either reads one small file for every process of the machine to find a tree, so these functions
use bare descriptors: an `open()` object costs more than the read itself. A process may vanish
between any two lines; that is None here, never an error.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")

_INIT_PID_NAMESPACE = "pid:[4026531836]"
"""PROC_PID_INIT_INO of the kernel (include/linux/proc_ns.h)."""


class Stat(NamedTuple):
    """Fields of /proc/PID/stat (proc_pid_stat(5))."""

    pid: int
    comm: bytes
    state: bytes
    """One letter: R, S, D, T (stopped), Z (zombie), X (dead), …"""
    parent: int
    group: int
    session: int
    cpu_ticks: int
    """User and system time of the process, its dead threads included."""
    start_ticks: int
    """When it began: with the pid, what tells a process from a later one of the same number."""

    @property
    def dead(self) -> bool:
        """A zombie, or on the way there: it has no memory any more."""
        return self.state in (b"Z", b"X", b"x")

    @property
    def command(self) -> str:
        """`comm` as text."""
        return self.comm.decode("utf-8", "replace")


def read(path: str, limit: int = 4096) -> bytes | None:
    """At most `limit` bytes of a /proc file in one read, None where it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, limit)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def read_stat(proc: str, pid: int) -> Stat | None:
    """The process's stat, None if there is none or it makes no sense."""
    return parse_stat(pid, read(f"{proc}/{pid}/stat") or b"")


def parse_stat(pid: int, data: bytes) -> Stat | None:
    """The content of /proc/PID/stat; None where it is cut short.

    The name may hold blanks and parentheses: fields count from its last closing parenthesis.
    """
    opened, closed = data.find(b"("), data.rfind(b")")
    fields = data[closed + 2 :].split()
    if opened < 0 or closed < opened or len(fields) < 20:
        return None
    try:
        parent, group, session = map(int, fields[1:4])
        ticks, start = int(fields[11]) + int(fields[12]), int(fields[19])
    except ValueError:
        return None
    return Stat(pid, data[opened + 1 : closed], fields[0], parent, group, session, ticks, start)


def tree(proc: str, leader: int, extra: Iterable[int] = ()) -> list[Stat]:
    """The leader, its descendants, the members of its session, and `extra` with their descendants.

    The session counts because a child whose parent died moves to another parent and keeps it. The
    processes come in the order of their ids, dead ones left out.
    """
    try:
        stats = all_stats(proc)
    except OSError:
        return []
    session = [stat.pid for stat in stats.values() if stat.session == leader]
    found = descendants([leader, *extra, *session], stats)
    return [stats[pid] for pid in sorted(found) if not stats[pid].dead]


def descendants(roots: Iterable[int], table: Mapping[int, Stat]) -> set[int]:
    """PIDs of `roots` and of everything below them in `table`."""
    children: dict[int, list[int]] = {}
    for stat in table.values():
        children.setdefault(stat.parent, []).append(stat.pid)
    found: set[int] = set()
    waiting = [pid for pid in roots if pid in table]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, ())
    return found


def all_stats(proc: str) -> dict[int, Stat]:
    """Every process that /proc shows, by PID.

    Raises:
        OSError: it cannot be listed.
    """
    names = os.listdir(proc)  # noqa: PTH208 - hot: a Path for every process costs more
    pids = [int(name) for name in names if name.isascii() and name.isdecimal()]
    return {pid: stat for pid in pids if (stat := read_stat(proc, pid)) is not None}


def pss_bytes(proc: str, pid: int) -> int | None:
    """Proportional set size: shared pages divided among those who share them.

    From smaps_rollup (kernel ≥ 4.14), which needs the right to trace the process. The kernel walks
    every page table entry for it: measured at 18 ms of CPU per GB of 4 KiB pages.
    """
    data = read(f"{proc}/{pid}/smaps_rollup")
    at = -1 if data is None else data.find(b"\nPss:")
    if data is None or at < 0:
        return None
    words = data[at + 5 : at + 64].split(maxsplit=1)
    return int(words[0]) * 1024 if words and words[0].isdigit() else None


def rss_bytes(proc: str, pid: int) -> int | None:
    """Resident set size from statm: shared pages count in full for every process."""
    words = (read(f"{proc}/{pid}/statm", 256) or b"").split()
    return int(words[1]) * PAGE if len(words) > 1 and words[1].isdigit() else None


def title(proc: str, pid: int) -> bytes:
    """The first argument of the command line, where processes put their title; empty if unread."""
    return (read(f"{proc}/{pid}/cmdline", 256) or b"").partition(b"\0")[0]


def foreign_pid_namespace(proc: str) -> bool:
    """Whether this process sees other process ids than the host does; unknown counts as yes."""
    try:
        return str(Path(proc, "self/ns/pid").readlink()) != _INIT_PID_NAMESPACE
    except OSError:
        return True
