"""The disk under a path, whether or not the path exists yet."""

from __future__ import annotations

import os
from pathlib import Path

from launcher.hardware.inventory import Disk


def read_disk(path: Path) -> Disk:
    """The file system that holds `path`, or that would hold it.

    May hang for as long as a dead network disk does.

    Raises:
        OSError: not even the nearest folder can be looked at.
    """
    found = nearest(path)
    facts = os.statvfs(found)
    return Disk(
        path=found,
        mount=_mount(found),
        total_bytes=facts.f_blocks * facts.f_frsize,
        free_bytes=facts.f_bavail * facts.f_frsize,
        free_files=facts.f_favail if facts.f_files else None,
        read_only=bool(facts.f_flag & os.ST_RDONLY),
        no_exec=bool(facts.f_flag & os.ST_NOEXEC),
    )


def nearest(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    for candidate in (path, *path.parents):
        try:
            candidate.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        return candidate
    return Path("/")


def _mount(path: Path) -> Path:
    found = path.resolve()
    while not found.is_mount():
        found = found.parent
    return found
