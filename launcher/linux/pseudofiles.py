"""Reading the small text files of /proc and /sys, which can be absent, masked or torn."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LIMIT_BYTES = 1 << 20
"""More than any file read here holds, save /proc/cpuinfo, of which only the start is needed."""


def read_text(path: Path, limit: int = LIMIT_BYTES) -> str | None:
    """The first `limit` bytes of `path` as text, None where it cannot be read.

    Opened without blocking, so that a FIFO in a fixture or a hostile mount cannot hang a reading.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        parts: list[bytes] = []
        while limit > 0 and (part := os.read(descriptor, min(limit, 65536))):
            parts.append(part)
            limit -= len(part)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return b"".join(parts).decode(errors="replace")


def read_int(path: Path) -> int | None:
    """The whole number that `path` holds, None where it cannot be read or is none (`max`)."""
    text = read_text(path, 64)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
