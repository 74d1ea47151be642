"""Small file habits shared by every folder: atomic replace, bounded reads, no symlinks followed."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
from pathlib import Path
from typing import IO, Final

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors of a disk, or a quota, that is full."""
NOT_WRITABLE: Final = FULL | {errno.EROFS}
"""The same, and of a disk that is read-only."""
SAYS_FULL: Final = re.compile(r"No space left on device|Disk quota exceeded")
"""The first in the words of another program, which speaks English."""


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` with `data` so that a reader or a crash sees the old or the new, never half.

    Raises:
        OSError: the folder is not writable or the disk is full; the old file is then intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_named(path: Path, data: bytes) -> None:
    """Write a file that a user named: where the name leads, as a shell's `>` does.

    A link is followed, a device or a pipe gets the bytes and stays what it is; a plain file is
    replaced as `write_atomic` does, and keeps its permissions.

    Raises:
        OSError: as `write_atomic`.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG | 0o644
    # What is below /dev and /proc may lead to a file that somebody has open (/dev/stdout).
    special = path.absolute().parts[1:2] in (("dev",), ("proc",))
    if stat.S_ISREG(mode) and not special:
        write_atomic(Path(os.path.realpath(path)), data, mode=stat.S_IMODE(mode))
        return
    with path.open("wb") as file:
        file.write(data)


def place_problem(path: Path) -> str | None:
    """Why `write_named` could not write `path`, or None: to be asked before long work."""
    if os.path.isdir(path):  # noqa: PTH112 - pathlib's raises where a folder may not be entered
        return "it is a folder"
    # A device, a pipe, or what somebody has open (/dev/stdout): it is written as it is.
    if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113
        return None if os.access(path, os.W_OK) else "it cannot be written"
    folder = Path(os.path.realpath(path)).parent
    if not os.path.isdir(folder):  # noqa: PTH112
        return f"there is no folder {folder}"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"the folder {folder} cannot be written"
    return None


def why_unreadable(error: Exception) -> str:
    """Why a file was not read as text, without its name: the system's words, or that its bytes are
    none."""
    return getattr(error, "strerror", None) or "it is not UTF-8"


def read_bounded(path: Path, limit: int) -> bytes:
    """Bytes of `path`, at most `limit`.

    Raises:
        OSError: as `open` does; a symlink at the last component is refused (ELOOP).
        ValueError: the file is larger than `limit` bytes.
    """
    # Without O_NONBLOCK a pipe of that name would be waited for, for ever.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{path} is larger than {limit} bytes")
    return data


def sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(file: IO[bytes]) -> None:
    """Have what was written to `file` on the disk.

    Raises:
        OSError: the disk is full or broken.
    """
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have the names in `folder` on the disk: files that were made, renamed and removed.

    Raises:
        OSError: as `open` and `fsync` do.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def absent(path: Path) -> str:
    """Why `path`, which does not exist, does not: `is a link to X, which does not exist`."""
    try:
        target = str(path.readlink())
    except OSError:
        return "does not exist"
    safe = "".join(c if c.isprintable() else "?" for c in target[:200])
    circle = os.path.lexists(path.parent / target)
    return f"is a link to {safe}, " + ("which is a link too" if circle else "which does not exist")
