"""What a run leaves: OUT when it is whole, and until then parts of it and a journal.

    OUT.journal     what the run is of, and how much of it counts
    OUT.part        rows with their vectors
    OUT.bad.part    rows without, and why

Data are on the disk before the commit that counts them; what lies behind the last commit is cut off
when the run goes on. OUT and OUT.bad.jsonl get their names after the last commit.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from launcher.corpus.encoders import Encoder
from launcher.corpus.journal import Commit, Identity, Journal
from launcher.corpus.records import Position, Problem, Row
from launcher.errors import ExitCode, QlaunchError
from launcher.linux.files import sync, sync_folder

Differences = Callable[[Identity, Identity], list[str]]
"""In what the run of a journal differs from this one, in words for people."""


def beside(out: Path, ending: str) -> Path:
    """A file beside the output."""
    return out.with_name(out.name + ending)


def files_of(out: Path) -> tuple[Path, ...]:
    """All that a run writes: parts of both outputs, the rows without a vector, the journal."""
    return tuple(beside(out, end) for end in (".part", ".bad.part", ".bad.jsonl", ".journal"))


class Output:
    """The files of one output, locked by their journal.

    Args:
        out: the file to make; its folder exists.
        identity: what the run is of.
        differences: holds the identity in a journal to this one.
        restart: throw away what an earlier run left.
        force: replace a file that is there.

    Raises:
        QlaunchError: `output_exists`, `embed_busy`, `embed_differs`, `embed_damaged` (exit 9).
        OSError: the folder cannot be written.
    """

    def __init__(
        self,
        out: Path,
        identity: Identity,
        differences: Differences,
        *,
        restart: bool,
        force: bool,
    ) -> None:
        self.out = out
        self.part, self.bad_part, self.bad, journal = files_of(out)
        self._new = identity
        self.journal = Journal(journal)
        self._parts: list[BinaryIO] = []
        try:
            if restart:
                self._discard()
            self.resumed = self._resumes(differences, force=force)
        except BaseException:
            self.close()
            raise
        self._next = self.journal.last

    @property
    def at(self) -> Commit:
        """How far the run is, what is not committed yet included."""
        return self._next

    @property
    def identity(self) -> Identity:
        """Of the run, as its journal has it."""
        return self.journal.identity or self._new

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.bad_part.unlink(missing_ok=True)
        self.journal.identity, self.journal.last = None, Commit()

    def _resumes(self, differences: Differences, *, force: bool) -> bool:
        """Whether there is a run to go on with, or end."""
        before = self.journal.identity
        if before is not None:
            if found := differences(before, self._new):
                raise self._differs(found)
            if not self.journal.last.whole and not force and self.out.exists():
                raise self._exists(self.out)
            return True
        for path in (self.out, self.bad):
            if path.exists() and not force:
                raise self._exists(path)
        for path in (self.part, self.bad_part):
            if path.exists():
                raise QlaunchError(
                    f"{path} is there without its journal, and may be anything",
                    code="embed_damaged",
                    exit_code=ExitCode.CONFLICT,
                    fix="remove it, or start over: --restart",
                )
        return False

    def _exists(self, path: Path) -> QlaunchError:
        return QlaunchError(
            f"{path} exists already",
            code="output_exists",
            exit_code=ExitCode.CONFLICT,
            fix="choose another --output, or replace it: --force",
        )

    def _differs(self, found: list[str]) -> QlaunchError:
        return QlaunchError(
            f"{self.journal.path} is of another run: {'; '.join(found)}",
            code="embed_differs",
            exit_code=ExitCode.CONFLICT,
            fix="run it as it was begun, choose another --output, or start over: --restart",
        )

    def open(self, encoder: Encoder) -> None:
        """Open the parts for more rows, cut to what counts."""
        if self.journal.identity is None:
            self.journal.begin(self._new)
        sizes = (max(self._next.bytes, len(encoder.head)), self._next.bad_bytes)
        for path, size in zip((self.part, self.bad_part), sizes, strict=True):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.fdopen(os.open(path, flags, 0o644), "r+b")
            self._parts.append(file)
            there = os.fstat(file.fileno()).st_size
            if path == self.part and self._next.bytes == 0:
                file.write(encoder.head)
                file.flush()
            elif there < size:
                raise QlaunchError(
                    f"{path} has {there} bytes, and its journal counts {size}",
                    code="embed_damaged",
                    exit_code=ExitCode.CONFLICT,
                    fix="start over: --restart",
                )
            file.truncate(size)
            file.seek(size)
        self._next = msgspec.structs.replace(self._next, bytes=sizes[0])
        sync_folder(self.out.parent)

    def append(self, data: bytes, rows: int, bad: list[Row], position: Position) -> None:
        """Add what lies between the last position and `position`; counts after `commit`."""
        lines = b"".join(map(self._line, bad))
        for file, more in zip(self._parts, (data, lines), strict=True):
            file.write(more)
        reasons = dict(self._next.reasons)
        for row in bad:
            assert row.problem is not None
            reasons[row.problem.reason] = reasons.get(row.problem.reason, 0) + 1
        self._next = Commit(
            position=position,
            rows=self._next.rows + rows,
            bad=self._next.bad + len(bad),
            bytes=self._next.bytes + len(data),
            bad_bytes=self._next.bad_bytes + len(lines),
            reasons=reasons,
            started=self._next.started,
        )

    def started(self, life: str | None) -> None:
        """Note, for good, that a service was started for this run; None: that it is gone."""
        self._next = msgspec.structs.replace(self._next, started=life)
        self.commit()

    def _line(self, row: Row) -> bytes:
        problem = row.problem or Problem("failed", "")
        document = {
            "file": self.identity.inputs[row.after.file].path,
            "row": row.number,
            "reason": problem.reason,
            "message": problem.message,
        }
        return msgspec.json.encode(document) + b"\n"

    def commit(self, *, whole: bool = False) -> None:
        """Have everything so far on the disk, and count it."""
        wanted = msgspec.structs.replace(self._next, whole=whole)
        if wanted == self.journal.last:
            return
        self._require_parts()
        for file in self._parts:
            sync(file)
        self.journal.commit(wanted)

    def _require_parts(self) -> None:
        """Hold the names of the parts to the files that are written: what has no name is lost."""
        for file, path in zip(self._parts, (self.part, self.bad_part), strict=False):
            try:
                same = os.path.samestat(os.fstat(file.fileno()), path.stat())
            except (FileNotFoundError, NotADirectoryError):
                same = False
            if not same:
                raise self._gone(path)

    def _gone(self, path: Path) -> QlaunchError:
        return QlaunchError(
            f"{path} was removed, moved or replaced before this run ended",
            code="embed_damaged",
            exit_code=ExitCode.CONFLICT,
            fix="put it back, or start over: --restart",
        )

    def finish(self, encoder: Encoder) -> None:
        """Give the files their names, all rows being committed; may be repeated after a death.

        Raises:
            QlaunchError: `embed_damaged` (exit 9): there is nothing to name.
            OSError: the disk.
        """
        self._require_parts()
        if not self._parts and not self.part.exists() and not self.out.exists():
            raise self._gone(self.part)
        for file in self._parts:
            file.close()
        self._parts = []
        last = self.journal.last
        assert last.whole
        for path, size in ((self.bad_part, last.bad_bytes), (self.part, last.bytes)):
            if path.exists():
                os.truncate(path, size)
        if self.bad_part.exists():
            if last.bad:
                self.bad_part.replace(self.bad)
            else:
                self.bad.unlink(missing_ok=True)
                self.bad_part.unlink()
        if self.part.exists():
            made = encoder.finish(self.part, last.rows)
            made.replace(self.out)
        sync_folder(self.out.parent)
        self.part.unlink(missing_ok=True)
        self.journal.remove()
        sync_folder(self.out.parent)

    def close(self) -> None:
        """Close the files; what is not committed does not count."""
        if self.journal.identity is None:
            self.journal.remove()  # nothing was begun
        for file in self._parts:
            file.close()
        self._parts = []
        self.journal.close()
