"""The journal beside an output: what a run is of, and how much of it is done for good.

The first line says what the run is of; every other one is a commit. A line counts when its checksum
is right and all lines before it count, so that a line that was half written is no line. Before a
commit is written, what it speaks of is on the disk.
"""

from __future__ import annotations

import errno
import os
import zlib
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from launcher.corpus.inputs import InputIdentity
from launcher.corpus.records import Position
from launcher.errors import ExitCode, QlaunchError
from launcher.linux import locks
from launcher.linux.files import sync, sync_folder

VERSION: Final = 1
_LIMIT: Final = 256 << 20


class Identity(msgspec.Struct, kw_only=True):
    """What a run is of. Model and probe are filled in by the first answers."""

    version: int = VERSION
    inputs: tuple[InputIdentity, ...]
    model: dict[str, str | None]
    """`name`, `fingerprint`, `dtype`; None for what is not known of a server."""
    settings: dict[str, str | int | bool | None]
    """By what they are called for people."""
    probe: str = ""


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """How much is done: everything before `position`, and no more."""

    position: Position = Position()
    rows: int = 0
    """Rows with a vector."""
    bad: int = 0
    """Rows without."""
    bytes: int = 0
    """Of the part that becomes the output."""
    bad_bytes: int = 0
    """Of the file of bad rows."""
    reasons: dict[str, int] = {}
    """Bad rows by reason."""
    started: str | None = None
    """The life (run id) of a service that was started for this, and is to be stopped after it."""
    whole: bool = False
    """All rows are done: what is left is to give the files their names."""


class Journal:
    """A locked journal file; ends with its holder, by whatever death.

    Args:
        path: the journal.

    Raises:
        QlaunchError: `embed_busy` (exit 9): another run has it; `not_written` (exit 1).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.identity: Identity | None = None
        """What the run is of; None where the journal is new."""
        self.last = Commit()
        self._file = self._locked()
        self._read()

    def _locked(self) -> BinaryIO:
        """The file, open and locked; again where its run ended and removed it meanwhile."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        while True:
            file = os.fdopen(os.open(self.path, flags, 0o644), "r+b")
            try:
                if not locks.take(file.fileno()):
                    raise self._busy()
                if self.path.exists() and os.path.samestat(
                    os.fstat(file.fileno()), self.path.stat()
                ):
                    return file
            except OSError as error:
                if error.errno not in locks.NO_LOCKS:
                    file.close()
                    raise
                return file  # a file system without locks: the user's own care has to do
            except QlaunchError:
                file.close()
                raise
            file.close()

    def _busy(self) -> QlaunchError:
        return QlaunchError(
            f"another run writes this output now: {self.path} is locked",
            code="embed_busy",
            exit_code=ExitCode.CONFLICT,
            fix="wait for it, or choose another --output",
        )

    def _read(self) -> None:
        if os.fstat(self._file.fileno()).st_size > _LIMIT:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(self.path))
        end = 0
        for line in self._file:
            document = _checked(line)
            if document is None:
                break
            if self.identity is None:
                self.identity = _identity(document)
            else:
                self.last = msgspec.json.decode(document, type=Commit)
            end += len(line)
        # What a death left half written goes, so that the next line is a line.
        self._file.seek(end)
        self._file.truncate()

    def begin(self, identity: Identity) -> None:
        """Begin anew, on the disk before anything else is written."""
        self._file.seek(0)
        self._file.truncate()
        self.identity, self.last = identity, Commit()
        self._write(msgspec.json.encode(identity))
        sync_folder(self.path.parent)

    def commit(self, commit: Commit) -> None:
        """Write a commit, on the disk when this returns."""
        self._write(msgspec.json.encode(commit))
        self.last = commit

    def _write(self, document: bytes) -> None:
        self._file.write(b"%08x %b\n" % (zlib.crc32(document), document))
        sync(self._file)

    def remove(self) -> None:
        """Remove the file; the lock goes with it."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let others have the file."""
        self._file.close()


def _identity(document: bytes) -> Identity:
    """The first line; of another version of qlaunch no more than that."""
    found = msgspec.json.decode(document)
    version = found.get("version", VERSION)
    if version != VERSION:
        return Identity(version=version, inputs=(), model={}, settings={})
    return msgspec.convert(found, Identity)


def _checked(line: bytes) -> bytes | None:
    """The document of a line; None where it is not whole."""
    number, _, document = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or number != b"%08x" % zlib.crc32(document):
        return None
    return document
