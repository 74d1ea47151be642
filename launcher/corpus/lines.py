"""Inputs of one record a line: plain text and JSONL."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from launcher.corpus.records import (
    RECORD_LIMIT,
    Carry,
    Position,
    Problem,
    Row,
    unreadable,
    utf8_problem,
)

TEXT_COLUMN: Final = "text"
"""Name of the column that a file of plain text has."""
BOM: Final = b"\xef\xbb\xbf"
_OTHER_UNICODE: Final = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""By their byte order marks, the longer ones first."""
_UNMARKED: Final = {
    b"\1\0\1\0": "UTF-16LE",
    b"\0\1\0\1": "UTF-16BE",
    b"\1\0\0\0": "UTF-32LE",
    b"\0\0\0\1": "UTF-32BE",
}
"""The same without a mark, by which of the first four bytes are not zero, where a text begins with
two Latin letters, digits or signs; one that does not is rarely UTF-8 as well."""
_SKIPPED: Final = 1 << 20
"""Bytes of an endless line that are read at once, and that show how lines end."""


def open_bytes(path: Path) -> BinaryIO:
    """`path`, open for reading.

    Raises:
        QlaunchError: `input_unreadable` (exit 2): it cannot be opened, is UTF-16 or UTF-32, or its
            lines end with carriage returns alone.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise unreadable(path, error.strerror or str(error)) from error
    start = file.read(_SKIPPED)
    file.seek(0)
    if name := _other_unicode(start[:4]):
        file.close()
        raise unreadable(
            path,
            f"it is {name}, and UTF-8 is wanted",
            fix=f"convert it: iconv -f {name} -t UTF-8 {path} > NEW",
        )
    if b"\r" in start.removesuffix(b"\r") and b"\n" not in start:
        file.close()
        raise unreadable(
            path,
            "its lines end with carriage returns alone, and newlines are wanted",
            fix=f"convert it: tr '\\r' '\\n' < {shlex.quote(str(path))} > NEW",
        )
    return file


def _other_unicode(start: bytes) -> str | None:
    """The encoding of a file that begins so, None where it may be UTF-8."""
    for mark, name in _OTHER_UNICODE.items():
        if start.startswith(mark):
            return name
    return _UNMARKED.get(bytes(map(bool, start)))


def lines(file: BinaryIO, offset: int, limit: int) -> Iterator[tuple[bytes, int, bool]]:
    """Lines from `offset` on: bytes without the line's end, the offset after it, whether whole.

    Of a line of more than `limit` bytes the first ones come, and the rest is read over.
    """
    file.seek(offset)
    while line := file.readline(limit):
        at, offset = offset, offset + len(line)
        whole = line.endswith(b"\n") or len(line) < limit
        more = b"" if whole else line
        while not whole and more and not more.endswith(b"\n"):
            more = file.readline(_SKIPPED)
            offset += len(more)
        if at == 0 and line.startswith(BOM):
            line = line.removeprefix(BOM)
            if not line:
                return  # a file of nothing else has no line
        yield line.removesuffix(b"\n").removesuffix(b"\r"), offset, whole


class _Lines:
    """What both formats share."""

    def __init__(self, path: Path, carry: Carry, limit: int = RECORD_LIMIT) -> None:
        self.path = path
        self._carry = carry
        self._limit = limit
        with open_bytes(path) as file:
            self._size = os.fstat(file.fileno()).st_size

    def share(self, position: Position) -> float:
        """The part of the file that lies before `position`, 0 to 1."""
        return position.offset / self._size if self._size else 1.0

    def _lines(self, start: Position) -> Iterator[tuple[bytes, int, bool]]:
        with open_bytes(self.path) as file:
            yield from lines(file, start.offset, self._limit)

    def _too_long(self) -> Problem:
        return Problem("too_long", f"a line of more than {self._limit} bytes")


class TextSource(_Lines):
    """A text a line. What ends a line is a newline, with or without a carriage return before it."""

    def rows(self, start: Position) -> Iterator[Row]:
        """A row for every line, empty ones too."""
        number = start.row
        for line, offset, whole in self._lines(start):
            number += 1
            after = Position(start.file, number, offset)
            if not whole:
                yield Row(number, after, problem=self._too_long())
                continue
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                yield Row(number, after, problem=utf8_problem(error))
                continue
            yield Row(number, after, text, self._carried(text), 2 * len(line))

    def _carried(self, text: str) -> Any:
        if self._carry == "nothing":
            return None
        if self._carry == "values":
            return {TEXT_COLUMN: text}
        return msgspec.json.encode({TEXT_COLUMN: text})[:-1]

    @property
    def columns(self) -> tuple[str, ...]:
        """The one column that there is."""
        return (TEXT_COLUMN,)


class JsonlSource(_Lines):
    """A JSON object a line; lines of white space alone are no rows.

    Args:
        path: the file.
        column: key of the text.
        taken: key that the output adds.
        carry: `json` carries a line as it is, byte by byte.
    """

    def __init__(self, path: Path, column: str, taken: str, carry: Carry) -> None:
        super().__init__(path, carry)
        self._column, self._taken = column, taken

    def rows(self, start: Position) -> Iterator[Row]:
        """A row for every line that is not blank."""
        number = start.row
        for line, offset, whole in self._lines(start):
            number += 1
            if whole and not line.strip():
                continue
            after = Position(start.file, number, offset)
            found = self._object(line) if whole else self._too_long()
            text = found if isinstance(found, Problem) else self._text(found)
            if isinstance(text, Problem):
                yield Row(number, after, problem=text)
            else:
                yield Row(number, after, text, self._carried(line, found), 2 * len(line))

    @staticmethod
    def _object(line: bytes) -> dict[str, Any] | Problem:
        try:
            found = msgspec.json.decode(line)
        except UnicodeDecodeError as error:
            return utf8_problem(error)
        except msgspec.DecodeError as error:
            return Problem("unreadable", f"not valid JSON: {error}")
        except RecursionError:
            return Problem("unreadable", "not valid JSON: it is nested too deeply")
        if not isinstance(found, dict):
            return Problem("unreadable", "not a JSON object")
        return found

    def _text(self, found: dict[str, Any]) -> str | Problem:
        if self._column not in found:
            return Problem("missing_column", f"there is no {self._column!r}")
        text = found[self._column]
        if not isinstance(text, str):
            word = "null" if text is None else f"of type {type(text).__name__}"
            return Problem("wrong_type", f"{self._column!r} is {word}, and no text")
        if self._carry != "nothing" and self._taken in found:
            return Problem("column_taken", f"there is a column {self._taken!r} already")
        return text

    def _carried(self, line: bytes, found: Any) -> Any:
        if self._carry == "json":
            return line.strip().removesuffix(b"}").rstrip()
        return found if self._carry == "values" else None
