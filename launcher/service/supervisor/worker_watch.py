"""The engine's processes by role: who died, at once, and how hard the scheduler works.

SGLang's front outlives its scheduler or detokenizer by a minute (it sleeps before crash
diagnostics, then waits for CUDA core dumps) and hangs every request meanwhile. A pidfd becomes
readable the moment its process ends, and costs nothing until then; where there are none, the
processes are looked at four times a second.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable

from launcher.linux import processes
from launcher.linux.processes import ProcessId
from launcher.linux.procfs import TICKS_PER_S, read_stat, title
from launcher.record.sampler import TEMPLATE, role_of
from launcher.service.supervisor.event_loop import Loop, Timer

PROC = "/proc"
POLL_S = 0.25
"""Between two looks at a process without a pidfd."""
_NO_PIDFD = -1


class EngineWorkers:
    """The schedulers and detokenizers of one engine."""

    def __init__(
        self, loop: Loop, leader: ProcessId, died: Callable[[str, ProcessId], object]
    ) -> None:
        """`died` is called from the loop with the role and the process, once each."""
        self._loop, self._leader, self._died = loop, leader, died
        self._watched: dict[ProcessId, tuple[str, int]] = {}
        self._over: set[ProcessId] = set()
        self._ticks: dict[ProcessId, int] = {}
        self._ticks_at = time.monotonic()
        self._polling: Timer | None = None

    def look(self, members: Iterable[ProcessId]) -> None:
        """Find the roles among `members` that are not known yet.

        A process takes its title some time after it began, so those without one are looked at
        again the next time.
        """
        for process in members:
            if process == self._leader or process in self._watched or process in self._over:
                continue
            self._recognise(process)

    def _recognise(self, process: ProcessId) -> None:
        stat = read_stat(PROC, process.pid)
        if stat is None or stat.start_ticks != process.start_ticks:
            return
        role = role_of(title(PROC, process.pid)) or role_of(stat.comm)
        if role is None or role == TEMPLATE:  # it serves nothing, whoever ends it
            return
        try:
            pidfd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return
        except (OSError, AttributeError):  # an old kernel, a seccomp filter, no descriptor left
            self._watched[process] = (role, _NO_PIDFD)
            self._poll()
            return
        self._watched[process] = (role, pidfd)
        self._loop.watch(pidfd, lambda: self._ended(process))

    def _poll(self) -> None:
        if self._polling is None:
            self._polling = self._loop.call_later(POLL_S, self._look_again)

    def _look_again(self) -> None:
        self._polling = None
        polled = [process for process, (_, pidfd) in self._watched.items() if pidfd == _NO_PIDFD]
        for process in polled:
            if process in self._watched and not processes.is_alive(process):
                self._ended(process)
        if polled:
            self._poll()

    def halted(self) -> str:
        """A sentence about the parts that SIGSTOP or its kin have halted; empty where none is."""
        parts = [("front", self._leader)]
        parts += [(role, process) for process, (role, _) in self._watched.items()]
        found = [f"{role} (process {p.pid})" for role, p in parts if processes.is_stopped(p)]
        if not found:
            return ""
        verb = "are" if len(found) > 1 else "is"
        return f"the engine's {' and '.join(found)} {verb} stopped (SIGSTOP)"

    def _ended(self, process: ProcessId) -> None:
        role, pidfd = self._watched.pop(process)
        self._over.add(process)
        if pidfd != _NO_PIDFD:
            self._loop.unwatch(pidfd)
            os.close(pidfd)
        self._died(role, process)

    def cores(self, of: Iterable[ProcessId] = ()) -> float:
        """CPU seconds for each second since the last call, of these or of the schedulers.

        Of the leader where no scheduler is known by its title; 0.0 at the first call.
        """
        now = time.monotonic()
        elapsed = now - self._ticks_at
        wanted = list(of) or [p for p, (role, _) in self._watched.items() if role == "scheduler"]
        ticks = {p: s.cpu_ticks for p in wanted or [self._leader] if (s := read_stat(PROC, p.pid))}
        spent = sum(t - self._ticks[p] for p, t in ticks.items() if p in self._ticks)
        self._ticks, self._ticks_at = ticks, now
        return max(0.0, spent / TICKS_PER_S / elapsed) if elapsed > 0 else 0.0

    def close(self) -> None:
        """Watch no more."""
        if self._polling is not None:
            self._polling.cancel()
            self._polling = None
        for pidfd in (pidfd for _, pidfd in self._watched.values() if pidfd != _NO_PIDFD):
            self._loop.unwatch(pidfd)
            os.close(pidfd)
        self._watched.clear()
