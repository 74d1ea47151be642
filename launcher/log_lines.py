"""Lines of an engine's log: when they were written, and the words of SGLang and Python in them.

Whoever reads the log (the supervisor as it runs, the classifier after a death, `logs`, `top`) reads
these words with this module, so that a release that words a line anew is met in one place.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

LOAD_BEGINS: Final = "Load weight begin"
LOAD_ENDS: Final = "Load weight end"
POOL_ENDS: Final = "Memory pool end"
BATCH: Final = "Prefill batch"
FIRED_UP: Final = "The server is fired up and ready"
"""SGLang 0.5.1 to 0.5.23, in the order of a start; a batch comes again with every forward pass."""
TRACEBACK: Final = "Traceback (most recent call last)"
DIES_OF: Final = "hit an exception"
"""What a process of SGLang logs before the traceback that it ends with."""

_TIME = re.compile(r"\[?(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)")
"""How SGLang and uvicorn begin a line: local time, to the second."""
_STAMP = re.compile(r"^\[\d{4}-\d\d-\d\d[ T][^\]\n]{0,60}\] ?")
"""What SGLang puts before a line: the time, and the rank."""
_BEGINS = re.compile(r"\[?\d{4}-\d\d-\d\d[ T]|(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")


def time_of(line: str) -> str | None:
    """When a line was written, `2026-01-02 10:00:05` in local time; None where it does not say."""
    found = _TIME.match(line)
    return None if found is None else f"{found[1]} {found[2]}"


def written_at(line: str) -> float | None:
    """When a line was written, seconds since the epoch; None where it does not say."""
    time = time_of(line)
    try:
        return None if time is None else datetime.fromisoformat(time).timestamp()
    except (ValueError, OverflowError):
        return None


def without_stamp(line: str) -> str:
    """`line` without the time and the rank before it."""
    return _STAMP.sub("", line)


def begins_entry(line: str) -> bool:
    """Whether a line begins an entry of a log: it has a time or a level at its start."""
    return _BEGINS.match(line) is not None


def in_traceback(text: str) -> bool:
    """Whether `text` ends in the frames of a traceback, before the exception that it tells of."""
    _, begins, rest = text.rpartition(f"{TRACEBACK}:\n")
    return bool(begins) and all(line[:1] in ("", " ", "\t") for line in rest.split("\n"))
