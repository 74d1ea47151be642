"""CSV and TSV as RFC 4180 has them: quotes, newlines within them, a header."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from launcher.corpus.lines import BOM, open_bytes
from launcher.corpus.records import (
    RECORD_LIMIT,
    Carry,
    Position,
    Problem,
    Row,
    unreadable,
)


class _TooLongError(Exception):
    """A record of more bytes than any has: most likely a quote that nobody closed."""


class _Feed:
    """Lines for csv's reader, decoded; knows how many bytes it has taken.

    An iterator and no generator: the reader goes on after a record that it could not read.
    """

    def __init__(self, file: BinaryIO, offset: int, limit: int) -> None:
        file.seek(offset)
        self._file, self._limit = file, limit
        self.offset = offset
        self._began, self._lines = offset, 0

    def begin(self) -> None:
        """A record begins here."""
        self._began, self._lines = self.offset, 0

    def swallowed(self) -> str:
        """Where the record lies if it took more than its own line, as an open quote does."""
        if self._lines < 2:
            return ""
        where = f"bytes {self._began} to {self.offset} of the file"
        return f" (read as one row: {self._lines} lines, {where}; is a quote there not closed?)"

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = self._file.readline(self._limit)
        if not line:
            raise StopIteration
        if self.offset == 0:
            self.offset, line = len(BOM) * line.startswith(BOM), line.removeprefix(BOM)
        self.offset += len(line)
        self._lines += 1
        if self.offset - self._began >= self._limit:
            raise _TooLongError
        # What is no UTF-8 must not end the reader: the row that has it is told by its escapes.
        return line.decode("utf-8", "surrogateescape")


class DelimitedSource:
    """A file with a header and a delimiter; blank lines are no rows.

    Args:
        path: the file.
        delimiter: comma or tab.
        column: name of the column with the text.
        carry: how the columns are carried along; their values are texts.
        limit: most bytes of one record.

    Raises:
        QlaunchError: `input_unreadable` (exit 2): no header, or one with a name twice.
    """

    def __init__(
        self,
        path: Path,
        delimiter: str,
        column: str | None,
        carry: Carry,
        limit: int = RECORD_LIMIT,
    ) -> None:
        self.path = path
        self._delimiter, self._carry, self._limit = delimiter, carry, limit
        csv.field_size_limit(RECORD_LIMIT)
        with open_bytes(path) as file:
            self._size = os.fstat(file.fileno()).st_size
            self.columns, self._body = self._header(file)
        self._at = self.columns.index(column) if column is not None else 0

    def share(self, position: Position) -> float:
        """The part of the file that lies before `position`, 0 to 1."""
        return position.offset / self._size if self._size else 1.0

    def _header(self, file: BinaryIO) -> tuple[tuple[str, ...], int]:
        """Names of the columns, and the offset of the first record."""
        feed = _Feed(file, 0, self._limit)
        reader = csv.reader(feed, delimiter=self._delimiter, strict=True)
        names: list[str] = []
        try:
            while not names:
                names = next(reader)
        except StopIteration:
            raise unreadable(self.path, "it is empty; its first line must name columns") from None
        except (csv.Error, _TooLongError) as error:
            raise unreadable(self.path, f"its first line names no columns: {error}") from error
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise unreadable(self.path, f"its first line names the column {twice!r} twice")
        if _invalid("".join(names)):
            raise unreadable(self.path, "its first line is not valid UTF-8")
        return tuple(names), feed.offset

    def rows(self, start: Position) -> Iterator[Row]:
        """A row for every record."""
        with open_bytes(self.path) as file:
            yield from self._records(file, start)

    def _records(self, file: BinaryIO, start: Position) -> Iterator[Row]:
        feed = _Feed(file, start.offset or self._body, self._limit)
        reader = csv.reader(feed, delimiter=self._delimiter, strict=True)
        number = start.row
        while True:
            feed.begin()
            problem, fields = None, []
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                problem = Problem("unreadable", f"broken quoting or line: {error}")
            except _TooLongError:
                raise self._unclosed(number + 1, feed) from None
            if fields or problem is not None:
                number += 1
                after = Position(start.file, number, feed.offset)
                if problem := problem or self._problem(fields):
                    where = feed.swallowed()
                    problem = Problem(problem.reason, problem.message + where)
                    yield Row(number, after, problem=problem)
                else:
                    yield self._row(number, after, fields)

    def _row(self, number: int, after: Position, fields: list[str]) -> Row:
        size = 2 * sum(map(len, fields))
        return Row(number, after, fields[self._at], self._carried(fields), size)

    def _problem(self, fields: list[str]) -> Problem | None:
        if len(fields) != len(self.columns):
            count = f"{len(fields)} fields, and the first line names {len(self.columns)}"
            reason = "missing_column" if len(fields) < len(self.columns) else "unreadable"
            return Problem(reason, f"it has {count}")  # type: ignore[arg-type]  # both are reasons
        if any(map(_invalid, fields)):
            return Problem("invalid_utf8", "not valid UTF-8")
        return None

    def _carried(self, fields: list[str]) -> Any:
        if self._carry == "nothing":
            return None
        values = dict(zip(self.columns, fields, strict=True))
        return msgspec.json.encode(values)[:-1] if self._carry == "json" else values

    def _unclosed(self, number: int, feed: _Feed) -> Exception:
        return unreadable(
            self.path,
            f"row {number} ends after more than {self._limit} bytes, if at all: a quote that opens"
            f" in it before byte {feed.offset} is not closed",
            fix="close it, or double the quotes that stand in a text",
        )


def _invalid(text: str) -> bool:
    """Whether bytes that are no UTF-8 stand in `text`, as escapes."""
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
