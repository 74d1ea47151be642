"""A supervisor that is PID 1 of a container: what ends with it."""

from __future__ import annotations

import time

from launcher.service import procs, store
from launcher.service.store import Folder

WAIT_S = 2.0
"""For whoever asked for the stop."""


def see_off(where: Folder) -> None:
    """Let whoever asked PID 1 to stop say so: the kernel kills its whole container with it."""
    asker = store.signed(where.up_lock)
    deadline = time.monotonic() + WAIT_S
    if not procs.is_alive(asker):
        return
    while procs.is_alive(asker) and time.monotonic() < deadline:
        time.sleep(0.02)
    deadline = min(deadline, time.monotonic() + 0.5)  # for the shell that had called it
    while time.monotonic() < deadline and len(_living()) > 1:
        time.sleep(0.02)


def _living() -> list[int]:
    return [stat.pid for stat in procs.all_processes().values() if not stat.dead]
