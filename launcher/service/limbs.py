"""The engine's processes by role: who died, at once, and how hard the scheduler works.

SGLang's front outlives its scheduler or detokenizer by a minute (it sleeps before crash
diagnostics, then waits for CUDA core dumps) and hangs every request meanwhile. A pidfd becomes
readable the moment its process ends, and costs nothing until then.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable

from launcher.record.procfs import TICKS_PER_S, read_stat, title
from launcher.record.sampler import role_of
from launcher.service.loop import Loop
from launcher.service.types import ProcessId

PROC = "/proc"


class Limbs:
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
        if role is None:
            return
        try:
            pidfd = os.pidfd_open(process.pid)
        except OSError:
            return
        self._watched[process] = (role, pidfd)
        self._loop.watch(pidfd, lambda: self._ended(process))

    def _ended(self, process: ProcessId) -> None:
        role, pidfd = self._watched.pop(process)
        self._over.add(process)
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
        for _, pidfd in self._watched.values():
            self._loop.unwatch(pidfd)
            os.close(pidfd)
        self._watched.clear()
