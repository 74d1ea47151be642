"""The scheduler gives back the memory of large batches when it has nothing to do.

The C library keeps what was freed, for later: after one batch of the largest size the scheduler
would stay as large as it was then. What was taken is given back when nothing has come for a second.
While it is at work nothing is: left alone, the C library returns some 8 MB after each portion of a
batch in float32, whose pages the next one has the system clear again, 37,000 a second.
"""

import ctypes
import logging
import os
import time

logger = logging.getLogger(__name__)

IDLE_S = 0.9
"""A sleep of that length was ended by its own limit, a second, and not by a request."""
WORTH_BYTES = 32 * 1024 * 1024
"""Less is left for the next requests, which would only take it again."""
KEPT_BYTES = 32 * 1024 * 1024
"""That much of what a thread has freed waits for the next sleep; the most that glibc takes as the
size from which an allocation is one of the system's."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""glibc's numbers of them for `mallopt` (malloc.h)."""
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
_TARGET = "sglang.srt.managers.scheduler_components.idle_sleeper.IdleSleeper.maybe_sleep"


def register() -> None:
    """Hook the scheduler's sleep between requests (`--sleep-on-idle`)."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    trim = c_trim()
    if trim is None:
        logger.info("qlaunch: this C library cannot give memory back")
    else:
        HookRegistry.register(_TARGET, Trimming(trim), HookType.AROUND)


def c_trim():
    """The C library's `malloc_trim`, which gives back what was freed; None where it has none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Return what was freed to the system.

    The C library keeps freed copies of weights for later: each of a decoder's layers leaves some,
    which together were 0.3 GB more than the model in int8, and 0.4 in float32.
    """
    trim = c_trim()
    if trim is not None:
        trim(0)


def keep() -> None:
    """Have glibc keep what is freed; nothing under another C library, or where a profile's
    variables say how much."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not any(name in os.environ for name in _VARIABLES):
        mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, KEPT_BYTES)


class Trimming:
    """The sleep, followed by a trim where it was a whole one and much has been taken since."""

    def __init__(self, trim, resident=None, keep=keep):
        self._trim, self._keep = trim, keep
        self._resident = resident or resident_bytes
        self._after = None
        """Resident after the last trim; None before the first."""

    def __call__(self, original, *args, **kwargs):
        """Sleep, and give memory back; the first time, when all is loaded, begin to keep it."""
        if self._keep is not None:
            self._keep()
            self._keep = None
        began = time.monotonic()
        result = original(*args, **kwargs)
        if time.monotonic() - began >= IDLE_S:
            self._idle()
        return result

    def _idle(self):
        now = self._resident()
        if now is None or (self._after is not None and now - self._after < WORTH_BYTES):
            return
        self._trim(0)
        self._after = self._resident()


def resident_bytes():
    """Of this process; None where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None
