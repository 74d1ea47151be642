"""The archive itself: a tar whose bytes depend on what is in it and on nothing else."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from launcher.bundle.manifest import ROOT, SUMS
from launcher.linux.files import sync, sync_folder

_WHEN: Final = 315_532_800
"""1 January 1980, of every file."""
_BLOCK: Final = 512


@dataclass(frozen=True)
class Entry:
    """A file of the archive."""

    name: str
    """Below the archive's one folder."""
    source: Path | bytes
    executable: bool = False

    @property
    def size(self) -> int:
        """Bytes of its content.

        Raises:
            OSError: it is not there.
        """
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


def archive_bytes(entries: Sequence[Entry]) -> int:
    """Size of the archive, within a few kilobytes."""
    return sum(_BLOCK * 2 + -(-entry.size // _BLOCK) * _BLOCK for entry in entries)


def write_archive(path: Path, entries: Sequence[Entry], progress: Callable[[str], None]) -> None:
    """Write `path` with all entries in the order of their names, and their checksums last.

    It appears by rename: what is interrupted leaves nothing behind.

    Raises:
        OSError: the disk is full, or a file cannot be read or changed meanwhile.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
                sums = [_add(tar, entry, progress) for entry in sorted(entries, key=_by_name)]
                _add(tar, Entry(SUMS, "".join(sums).encode()), progress)
            sync(file)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)


def _by_name(entry: Entry) -> str:
    return entry.name


def _add(tar: tarfile.TarFile, entry: Entry, progress: Callable[[str], None]) -> str:
    """Add one file; returns its line of the checksums."""
    head = tarfile.TarInfo(f"{ROOT}/{entry.name}")
    head.size, head.mtime = entry.size, _WHEN
    head.mode = 0o755 if entry.executable else 0o644
    if head.size > 100_000_000:
        progress(f"writing {entry.name}")
    source = entry.source
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        hashed = _Hashed(file)
        tar.addfile(head, hashed)
    return f"{hashed.digest.hexdigest()}  {entry.name}\n"


class _Hashed:
    """A file that is hashed while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data = self._file.read(size)
        self.digest.update(data)
        return data


def files_below(folder: Path, name: str) -> list[Entry]:
    """Every file of a folder under `name`, links followed: caches of hubs are made of them.

    Raises:
        OSError: a link leads nowhere.
    """
    found = []
    for at, _folders, names in os.walk(folder, followlinks=True):
        for each in names:
            path = (Path(at) / each).resolve(strict=True)
            inside = (Path(at) / each).relative_to(folder).as_posix()
            found.append(Entry(f"{name}/{inside}", path))
    return found
