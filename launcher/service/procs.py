"""Processes by identity: read from /proc, signalled only while they are still themselves.

A PID is reused; a PID with its start time and the machine's boot is not. Everything that outlives
one function call holds a `ProcessId`, and every signal is sent through a pidfd that was opened
before the identity was checked, so that no reuse can slip in between.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from launcher.service.types import ProcessId


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of /proc/PID/stat that a supervisor needs (proc_pid_stat(5))."""

    pid: int
    command: str
    state: str
    """One letter: R, S, D, Z (zombie), X (dead), …"""
    parent: int
    group: int
    session: int
    start_ticks: int
    """Field 22: clock ticks since boot."""

    @property
    def dead(self) -> bool:
        """Whether it only waits to be reaped."""
        return self.state in "ZXx"

    @property
    def identity(self) -> ProcessId:
        """What stays itself when the PID is reused."""
        return ProcessId(pid=self.pid, start_ticks=self.start_ticks, boot_id=boot_id())


@cache
def boot_id() -> str:
    """The kernel's random id of this boot; empty where /proc does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def read_stat(pid: int) -> Stat | None:
    """Facts about `pid`, or None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - hot: hundreds a scan
            data = file.read(4096)
    except OSError:
        return None
    return parse_stat(pid, data)


def parse_stat(pid: int, data: bytes) -> Stat | None:
    """Parse /proc/PID/stat; None if it is cut short.

    The command stands in parentheses and may itself hold spaces and parentheses, so the fields
    are counted from the last closing one.
    """
    opened, closed = data.find(b"("), data.rfind(b")")
    fields = data[closed + 2 :].split()
    if opened < 0 or closed < opened or len(fields) < 20:
        return None
    return Stat(
        pid=pid,
        command=data[opened + 1 : closed].decode("utf-8", "replace"),
        state=fields[0].decode("ascii", "replace"),
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        start_ticks=int(fields[19]),
    )


def all_processes() -> dict[int, Stat]:
    """Every process that /proc shows, by PID."""
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - names only: no Path object a process
        if name.isdigit() and (stat := read_stat(int(name))) is not None:
            found[stat.pid] = stat
    return found


def process_id(pid: int) -> ProcessId | None:
    """Identity of the live process `pid`; None if there is none, or only a zombie of it."""
    if pid <= 0:
        return None
    stat = read_stat(pid)
    return None if stat is None or stat.dead else stat.identity


def is_alive(process: ProcessId | None) -> bool:
    """Whether that very process still runs; a zombie does not."""
    return process is not None and process_id(process.pid) == process


def may_signal(pid: int) -> bool:
    """Whether `pid` can be one of ours: never 0, 1, a group, a PID too large to be one, or us."""
    return 1 < pid < 2**31 and pid != os.getpid()


def send(process: ProcessId, signum: int) -> bool:
    """Signal that very process; False if it is gone, is not ours to signal, or may not be."""
    if not may_signal(process.pid):
        return False
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        if process_id(process.pid) != process:
            return False
        signal.pidfd_send_signal(pidfd, signum)
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def descendants(roots: Iterable[int], table: dict[int, Stat]) -> set[int]:
    """PIDs of `roots` and of everything below them in `table`."""
    children: dict[int, list[int]] = {}
    for stat in table.values():
        children.setdefault(stat.parent, []).append(stat.pid)
    found: set[int] = set()
    queue = [pid for pid in roots if pid in table]
    while queue:
        pid = queue.pop()
        if pid not in found:
            found.add(pid)
            queue.extend(children.get(pid, ()))
    return found


def describe(process: ProcessId) -> str:
    """`PID (command)` for messages."""
    stat = read_stat(process.pid)
    return f"{process.pid} ({stat.command})" if stat else str(process.pid)


def marked(marker: str) -> list[ProcessId]:
    """Live processes of this user whose environment holds `marker` (`NAME=value`).

    Finds what no tree can: a grandchild that left the session and lost its parent. A process that
    writes over its own environment (setproctitle does) is missed here.
    """
    wanted = marker.encode()
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208
        if not name.isdigit() or not may_signal(int(name)):
            continue
        identity = process_id(int(name))
        try:
            environment = Path(f"/proc/{name}/environ").read_bytes()
        except OSError:
            continue
        if identity is not None and wanted in environment.split(b"\0"):
            found.append(identity)
    return found
