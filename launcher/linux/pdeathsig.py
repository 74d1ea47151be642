"""A child process that does not outlive the one that started it."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

PR_SET_PDEATHSIG: Final = 1
"""linux/prctl.h."""

_libc = ctypes.CDLL(None, use_errno=True)  # loaded here: a forked child must not load anything


def die_with(parent: int, by: int = signal.SIGKILL) -> None:
    """Run in the child between fork and exec: get `by` when the thread that forked us ends."""
    _libc.prctl(PR_SET_PDEATHSIG, by, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above took effect
        os.kill(os.getpid(), by)
