"""Locks on files: taken or refused, ended with their holder, never a file that merely exists.

flock is asked first. Some network and FUSE file systems refuse it and have the kernel's other
kind, on open file descriptions, which ends with its holder just the same.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
"""What a file system without a kind of lock answers."""
WITHOUT: Final = "its file system has no file locks"
_POLL_S: Final = 0.05


def take(fd: int) -> bool:
    """Lock an open file, for this descriptor alone; False where another one holds it.

    Raises:
        OSError: the file system has no locks (`WITHOUT`), or the descriptor is not usable.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return _take_description(fd)
    return True


def _take_description(fd: int) -> bool:
    """The same by F_OFD_SETLK, over the whole file; the descriptor must be writable."""
    whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, whole)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise OSError(error.errno, WITHOUT) from error
    return True


@contextlib.contextmanager
def held(path: Path, waiting: Callable[[], object]) -> Iterator[None]:
    """Hold the lock file `path` for a block; `waiting` is called once where another holds it.

    Raises:
        OSError: the file cannot be made or its file system has no locks; `filename` is set.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path, flags, 0o644)
    try:
        if not _try(fd, path):
            waiting()
            while not _try(fd, path):
                time.sleep(_POLL_S)
        yield
    finally:
        os.close(fd)


def _try(fd: int, path: Path) -> bool:
    try:
        return take(fd)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def unsupported(folder: Path) -> str | None:
    """Why files in `folder` cannot be locked; None where they can, or where none can be made.

    Tried on a file without a name, so that nothing is left.
    """
    try:
        fd = os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        take(fd)
    except OSError as error:
        return error.strerror
    finally:
        os.close(fd)
    return None
