"""Files of one JSON document a line: bounded in size, readable after a crash at any byte."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from launcher.linux.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LINE_LIMIT_BYTES = 64 * 1024
"""No line that is written here is longer; a longer one in a file is not from here and is passed."""

RETRY_AFTER_LINES = 20
"""A compaction that failed is tried again this many lines later: it reads the whole file."""


class BoundedLines:
    """Appends lines to a file and has it made smaller when it is full.

    The file is opened for every line: it may be removed, and the disk may fill up and be freed
    again, in the months a service lives. A line that was written in part is ended before the next.
    """

    def __init__(
        self, path: Path, limit_bytes: int, compact: Callable[[Iterator[bytes]], list[bytes]]
    ) -> None:
        self._path = path
        self._limit = limit_bytes
        self._compact = compact
        self._torn = True
        self._retry_in = 0

    def append(self, line: bytes) -> None:
        """Add `line` (without its newline).

        Raises:
            OSError: the disk is full, read-only, over quota, or the folder is gone.
        """
        self._make_room()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if self._torn and size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line
            self._torn = True
            data = line + b"\n"
            if os.write(descriptor, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._torn = False
        finally:
            os.close(descriptor)

    def _make_room(self) -> None:
        """Compact the file if it is full; where that fails, let it grow to twice its limit."""
        try:
            size = self._path.lstat().st_size
        except OSError:
            return  # not there yet
        if size <= self._limit:
            return
        if self._retry_in > 0:
            self._retry_in -= 1
        else:
            try:
                kept = self._compact(read_lines(self._path))
                write_atomic(self._path, b"".join(part + b"\n" for part in kept))
            except OSError:
                self._retry_in = RETRY_AFTER_LINES
            else:
                return
        if size > 2 * self._limit:
            raise OSError(errno.EFBIG, "the file is full and cannot be made smaller")


def read_lines(path: Path) -> Iterator[bytes]:
    """The complete and not overlong lines of `path`; nothing where it cannot be read.

    A last line without its newline was cut by a crash, but may be whole: it is given too.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return
            whole = True
            while line := file.readline(LINE_LIMIT_BYTES + 1):
                ended = line.endswith(b"\n")
                if whole and (ended or len(line) <= LINE_LIMIT_BYTES):
                    yield line.rstrip(b"\n")
                whole = ended
