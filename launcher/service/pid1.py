"""A supervisor that is PID 1 of a container, or all that PID 1 waits for: what ends with it."""

from __future__ import annotations

import os
import time

from launcher.linux import processes
from launcher.linux.processes import ProcessId
from launcher.service import store
from launcher.service.store import Folder

WAIT_S = 2.0
"""For whoever asked for the stop."""
INIT_NAMESPACE = 0xEFFFFFFC
"""Inode of the PID namespace of the machine itself (linux/proc_ns.h)."""


def carries(supervisor: ProcessId) -> bool:
    """Whether its container may end with it: it is PID 1, or a child of it (tini, `sh -c`)."""
    if supervisor.pid == 1:
        return True
    stat = processes.read_stat(supervisor.pid)
    return stat is not None and stat.parent == 1 and processes.namespace() != INIT_NAMESPACE


def see_off(where: Folder) -> None:
    """Let whoever asked for the stop say so: the kernel kills a whole container with its PID 1."""
    asker = store.signed(where.up_lock)
    deadline = time.monotonic() + WAIT_S
    if not processes.is_alive(asker):
        return
    while processes.is_alive(asker) and time.monotonic() < deadline:
        time.sleep(0.02)
    deadline = min(deadline, time.monotonic() + 0.5)  # for the shell that had called it
    while time.monotonic() < deadline and _others():
        time.sleep(0.02)


def _others() -> list[int]:
    mine = {1, os.getpid()}
    return [s.pid for s in processes.all_processes().values() if not s.dead and s.pid not in mine]
