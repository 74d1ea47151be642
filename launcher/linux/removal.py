"""Removing folders so that an interruption leaves none of them half there.

A folder is renamed first, beside itself, to a name that nothing of ours looks for; then it is
emptied. What a crash leaves of that is found by `discarded`.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from pathlib import Path

from launcher.errors import ExitCode, QlaunchError

MARK = ".removed-"


def discard(path: Path) -> bool:
    """Remove a file, a link or a folder with all that is in it; False where there was none.

    Raises:
        QlaunchError: `not_removed` (exit 1), naming the path.
    """
    aside = path.with_name(f"{MARK}{path.name.lstrip('.')}.{secrets.token_hex(4)}")
    try:
        if path.name.startswith(MARK):
            aside = path
        else:
            path.rename(aside)
        if aside.is_dir() and not aside.is_symlink():
            shutil.rmtree(aside)
        else:
            aside.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise QlaunchError(
            f"cannot remove {path}: {error.strerror or error}",
            code="not_removed",
            exit_code=ExitCode.UNEXPECTED,
            fix="make its disk writable"
            if error.errno == errno.EROFS
            else f"remove by hand what is left of it: {aside if aside.exists() else path}",
        ) from error
    return True


def discarded(folder: Path) -> list[Path]:
    """What interrupted removals left in `folder`."""
    return sorted(folder.glob(f"{MARK}*"))


def bytes_of(path: Path) -> int:
    """Bytes that a file or folder takes on the disk; several names of one file count once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for one in _entries(path):
        try:
            found = one.lstat()
        except OSError:
            continue
        if (found.st_dev, found.st_ino) not in seen:
            seen.add((found.st_dev, found.st_ino))
            total += found.st_blocks * 512
    return total


def _entries(path: Path) -> list[Path]:
    entries = [path]
    for folder, names, files in os.walk(path):
        entries += [Path(folder) / name for name in (*names, *files)]
    return entries
