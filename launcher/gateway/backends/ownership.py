"""Whether a file may be taken for the cache, and begun anew where it is damaged.

A cache that is damaged is removed: the vectors can be made again. What somebody named by mistake
cannot, so nothing is removed, or written to, that may be anything else.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Final

_MAGIC: Final = b"SQLite format 3\0"
_OURS: Final = frozenset({"entries", "entries_used", "sqlite_sequence"})
"""Tables and indexes of a cache."""


def not_ours(path: Path) -> str | None:
    """Why a file is no cache, in the middle of a sentence; None: it is one, or may become one.

    Damage is none of it: an empty file, zeros, and what an SQLite file holds after its first bytes.

    Raises:
        OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return "it is a device or a pipe, and not a file"
        head = os.read(descriptor, len(_MAGIC))
    finally:
        os.close(descriptor)
    if not head.strip(b"\0"):
        return None
    if head != _MAGIC:
        return "it is a file of something else"
    return _of_another_program(path)


def _of_another_program(path: Path) -> str | None:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as opened:
            names = {row[0] for row in opened.execute("SELECT name FROM sqlite_schema")}
    except sqlite3.Error:
        return None  # damaged, locked, or its log cannot be read: opening it will tell
    others = {name for name in names if name not in _OURS and not name.startswith("sqlite_auto")}
    return "it is another program's database" if others else None
