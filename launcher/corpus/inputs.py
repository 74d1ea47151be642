"""The inputs of a run: which format, which column, which bytes, and all their rows in order."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

from launcher.corpus.delimited import DelimitedSource
from launcher.corpus.lines import TEXT_COLUMN, JsonlSource, TextSource, lines, open_bytes
from launcher.corpus.parquet import ParquetSource
from launcher.corpus.records import RECORD_LIMIT, Carry, Position, Row, Source, unreadable
from launcher.errors import QlaunchError
from launcher.yaml_messages import did_you_mean

InputFormat = Literal["text", "jsonl", "csv", "tsv", "parquet"]
OutputFormat = Literal["jsonl", "npy", "parquet"]
F = TypeVar("F", bound=str)

INPUT_SUFFIXES: Final[dict[str, InputFormat]] = {
    ".txt": "text",
    ".text": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
OUTPUT_SUFFIXES: Final[dict[str, OutputFormat]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".npy": "npy",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_BLOCK: Final = 1 << 20
_PEEKED: Final = 20
"""First objects of a JSONL file that say which of its columns is the text."""


class InputIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What an input was when a run began."""

    path: str
    bytes: int
    mtime_ns: int
    digest: str
    """BLAKE2b of all its bytes: what counts. A file that was copied or touched is the same."""


def identify(path: Path) -> InputIdentity:
    """Read all of `path` once; `input_unreadable` (exit 2) where that fails."""
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise unreadable(path, "it is not a file", fix="write the texts into a file first")
            digest = hashlib.blake2b(digest_size=16)
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise unreadable(path, error.strerror or str(error)) from error
    return InputIdentity(
        path=str(path).encode("utf-8", "backslashreplace").decode(),  # of any bytes, in JSON
        bytes=facts.st_size,
        mtime_ns=facts.st_mtime_ns,
        digest=digest.hexdigest(),
    )


def format_of(path: Path, suffixes: Mapping[str, F], asked: F | None, option: str) -> F:
    """The format of a file: what was asked for, else what its suffix says.

    Raises:
        QlaunchError: `unknown_format` (exit 2).
    """
    if asked is not None:
        return asked
    suffix = path.suffix.lower()
    if suffix in suffixes:
        return suffixes[suffix]
    named = f"its suffix {suffix!r} is unknown" if suffix else "it has no suffix"
    raise QlaunchError(
        f"the format of {path} cannot be told: {named}{did_you_mean(suffix, list(suffixes))}",
        code="unknown_format",
        fix=f"known are {', '.join(suffixes)}; or say it with {option}",
    )


class Inputs:
    """All inputs of a run, one after another, of one format and with the same columns.

    Args:
        paths: the files.
        format: of all of them.
        column: the column with the texts; None: the one named `text`, or the only one.
        taken: the column that the output adds.
        carry: how other columns are carried along.

    Raises:
        QlaunchError: `input_unreadable`, `column_unknown`, `column_taken`, `extra_missing`
            (exit 2).
    """

    def __init__(
        self,
        paths: Sequence[Path],
        format: InputFormat,  # noqa: A002 - the word that users know it by
        column: str | None,
        taken: str,
        carry: Carry,
    ) -> None:
        self._sources: list[Source] = []
        self.column = TEXT_COLUMN
        self.columns: tuple[str, ...] = ()
        """Of every row; empty for JSONL, whose rows differ."""
        self.schema: Any = None
        """Arrow's, of Parquet."""
        for path in paths:
            if format == "text":
                self._sources.append(self._text(path, column, carry))
            elif format == "jsonl":
                self.column = column or (self.column if self._sources else _text_key(path))
                self._sources.append(JsonlSource(path, self.column, taken, carry))
            else:
                self._sources.append(self._tabular(path, format, column, carry))
        if carry != "nothing" and taken in self.columns:
            raise QlaunchError(
                f"{paths[0]} has a column {taken!r} already, the name that the vectors would get",
                code="column_taken",
                fix="choose another name for them: --output-column NAME",
            )

    def _text(self, path: Path, column: str | None, carry: Carry) -> Source:
        if column not in (None, TEXT_COLUMN):
            raise _unknown(path, str(column), (TEXT_COLUMN,), "plain text has no columns")
        self.columns = (TEXT_COLUMN,)
        return TextSource(path, carry)

    def _tabular(
        self,
        path: Path,
        format: InputFormat,  # noqa: A002 - the word that users know it by
        column: str | None,
        carry: Carry,
    ) -> Source:
        def opened(name: str | None) -> DelimitedSource | ParquetSource:
            if format == "parquet":
                return ParquetSource(path, name, carry)
            return DelimitedSource(path, "\t" if format == "tsv" else ",", name, carry)

        bare = opened(None)
        self.column = _choose(path, bare, column)
        self._same(path, bare)
        return opened(self.column)

    def _same(self, path: Path, source: DelimitedSource | ParquetSource) -> None:
        """Hold every file to the first one's columns."""
        schema = getattr(source, "schema", None)
        if not self._sources:
            self.columns, self.schema = source.columns, schema
            return
        if source.columns != self.columns or (schema is not None and schema != self.schema):
            raise unreadable(
                path,
                f"its columns ({', '.join(source.columns)}) are not those of"
                f" {self._sources[0].path} ({', '.join(self.columns)}), or of other types",
                fix="embed it in a run of its own",
            )

    def rows(self, start: Position) -> Iterator[Row]:
        """Rows of all files from `start` on."""
        for index, source in enumerate(self._sources):
            if index >= start.file:
                yield from source.rows(start if index == start.file else Position(index))

    def share(self, position: Position) -> float:
        """The part of all inputs that lies before `position`, 0 to 1, by their bytes."""
        sizes = [source.path.stat().st_size for source in self._sources]
        done = sum(sizes[: position.file])
        here = self._sources[position.file]
        done += int(sizes[position.file] * here.share(position))
        return min(1.0, done / max(1, sum(sizes)))


def _choose(path: Path, source: DelimitedSource | ParquetSource, column: str | None) -> str:
    """The column of the texts."""
    columns = source.columns
    if column is not None:
        if column not in columns:
            raise _unknown(path, column, columns)
        return column
    if TEXT_COLUMN in columns:
        return TEXT_COLUMN
    texts = source.text_columns() if isinstance(source, ParquetSource) else columns
    if len(texts) == 1:
        _require_divided(path, texts[0], source)
        return texts[0]
    raise _unnamed(path, columns, texts)


def _require_divided(path: Path, column: str, source: DelimitedSource | ParquetSource) -> None:
    """Refuse the whole line of a file whose fields are divided by something else as a text."""
    others = [mark for mark in ";\t|" if mark in column]
    if others and isinstance(source, DelimitedSource):
        raise QlaunchError(
            f"{path} has one column, {column!r}: its fields seem to be divided by {others[0]!r}",
            code="column_unknown",
            fix="divide them by commas, or tabs (--input-format tsv); or name it with --column",
        )


def _text_key(path: Path) -> str:
    """The column of the texts in JSONL, from its first objects."""
    texts: dict[str, None] = {}
    with open_bytes(path) as file:
        for at, (line, _, whole) in enumerate(lines(file, 0, RECORD_LIMIT)):
            if at >= _PEEKED:
                break
            try:
                found = msgspec.json.decode(line) if whole else None
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            pairs = found.items() if isinstance(found, dict) else ()
            texts |= dict.fromkeys(name for name, value in pairs if isinstance(value, str))
    if TEXT_COLUMN in texts or not texts:
        return TEXT_COLUMN
    if len(texts) == 1:
        return next(iter(texts))
    raise _unnamed(path, tuple(texts), tuple(texts))


def _unknown(path: Path, column: str, columns: Sequence[str], why: str = "") -> QlaunchError:
    said = why or f"its columns are {', '.join(columns)}"
    return QlaunchError(
        f"{path} has no column {column!r} ({said}){did_you_mean(column, list(columns))}",
        code="column_unknown",
        fix="name the column with the texts: --column NAME",
    )


def _unnamed(path: Path, columns: Sequence[str], texts: Sequence[str]) -> QlaunchError:
    named = f": {', '.join(columns)}" if columns else ""
    several = f"several columns and none named {TEXT_COLUMN!r}" if texts else "no column of texts"
    return QlaunchError(
        f"{path} has {several}{named}",
        code="column_unknown",
        fix="name the one with the texts: --column NAME",
    )
