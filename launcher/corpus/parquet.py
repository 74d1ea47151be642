"""Parquet in and out, by pyarrow: an extra, imported by the functions that need it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from launcher import extras
from launcher.corpus.lines import lines
from launcher.corpus.records import (
    RECORD_LIMIT,
    Carry,
    Position,
    Problem,
    Row,
    Vector,
    unreadable,
    utf8_problem,
)
from launcher.linux.files import sync

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE: Final = 256
"""Rows that are decoded together, at most."""
BYTES_AT_ONCE: Final = 4 << 20
"""And about so many bytes of them."""
GROUP_BYTES: Final = 16 << 20
"""A row group of the output ends when it has so many bytes of Arrow's, or of vectors."""


class ParquetSource:
    """A Parquet file, read by row groups.

    Args:
        path: the file.
        column: the column with the text.
        carry: `values` carries Arrow's own, typed as they are.

    Raises:
        QlaunchError: `extra_missing`, `input_unreadable` (exit 2).
    """

    def __init__(self, path: Path, column: str | None, carry: Carry) -> None:
        pa = extras.require("embed")
        import pyarrow.parquet as pq

        self.path, self._column, self._carry = path, column, carry
        try:
            self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
        except (OSError, pa.ArrowException) as error:
            raise unreadable(path, f"no Parquet file: {error}") from error
        self.schema: Any = self._file.schema_arrow
        self.columns: tuple[str, ...] = tuple(self.schema.names)
        if twice := [name for name in self.columns if self.columns.count(name) > 1]:
            # Neither a reader nor a JSON object could tell them apart.
            raise unreadable(path, f"it names the column {twice[0]!r} twice")
        if column is not None:
            self._check(self.schema.field(column).type)

    def _check(self, kind: Any) -> None:
        import pyarrow.types as kinds

        kind = _plain(kind)
        if not (kinds.is_string(kind) or kinds.is_large_string(kind) or str(kind) == "string_view"):
            raise unreadable(
                self.path,
                f"its column {self._column!r} holds {kind}, and no text",
                fix=f"name another one with --column: {', '.join(self.columns)}",
            )

    def text_columns(self) -> tuple[str, ...]:
        """Columns that hold texts."""
        texts = ("string", "large_string", "string_view")
        return tuple(field.name for field in self.schema if str(field.type) in texts)

    def share(self, position: Position) -> float:
        """The part of the rows that lies before `position`, 0 to 1."""
        return position.row / self._file.metadata.num_rows if position.row else 0.0

    def rows(self, start: Position) -> Iterator[Row]:
        """A row for every one of the file."""
        import pyarrow as pa

        wanted = [self._column] if self._carry == "nothing" else None
        first = 0
        try:
            for group in range(self._file.metadata.num_row_groups):
                following = first + self._file.metadata.row_group(group).num_rows
                if following > start.row:
                    yield from self._group(group, first, start, wanted)
                first = following
        except (OSError, pa.ArrowException) as error:
            raise unreadable(self.path, f"damaged after row {start.row}: {error}") from error

    def _group(
        self, group: int, first: int, start: Position, wanted: list[str | None] | None
    ) -> Iterator[Row]:
        facts = self._file.metadata.row_group(group)
        wide = facts.total_byte_size // max(1, facts.num_rows)
        count = max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE // max(1, wide)))
        for batch in self._file.iter_batches(count, row_groups=[group], columns=wanted):
            if first + batch.num_rows > start.row:
                yield from self._batch(batch, first, start)
            first += batch.num_rows

    def _batch(self, batch: pa.RecordBatch, first: int, start: Position) -> Iterator[Row]:
        texts = batch.column(self._column)
        if self._carry == "json":
            batch = _without_nanoseconds(batch)
        dicts = _dicts(batch) if self._carry == "json" else None
        size = batch.nbytes // batch.num_rows
        for at in range(max(0, start.row - first), batch.num_rows):
            number = first + at + 1
            after = Position(start.file, number, number)
            text = self._text(texts[at])
            if isinstance(text, Problem):
                yield Row(number, after, problem=text)
                continue
            carried: Any = (batch, at) if self._carry == "values" else None
            if self._carry == "json":
                carried = _json(batch, at, dicts)
                if isinstance(carried, Problem):
                    yield Row(number, after, problem=carried)
                    continue
            yield Row(number, after, text, carried, size + len(text))

    def _text(self, value: Any) -> str | Problem:
        try:
            text = value.as_py()
        except UnicodeDecodeError as error:
            return utf8_problem(error)
        if not isinstance(text, str):
            return Problem("wrong_type", f"{self._column!r} is null, and no text")
        if 4 * len(text) > RECORD_LIMIT and len(text.encode()) > RECORD_LIMIT:
            return Problem("too_long", f"a text of more than {RECORD_LIMIT} bytes")
        return text


def _without_nanoseconds(batch: pa.RecordBatch) -> pa.RecordBatch:
    """`batch` with times as texts, and spans as numbers, that Python's own types cannot hold."""
    import pyarrow as pa

    wanted = {"timestamp[ns": pa.string(), "time64[ns": pa.string(), "duration[ns": pa.int64()}
    columns = [
        column.cast(wanted[str(column.type).partition(",")[0].rstrip("]")])
        if str(column.type).partition(",")[0].rstrip("]") in wanted
        else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _dicts(batch: pa.RecordBatch) -> list[dict[str, Any]] | None:
    """Rows of `batch` as Python's values; None where one of them cannot be."""
    try:
        found: list[dict[str, Any]] = batch.to_pylist()
    except (UnicodeDecodeError, ValueError):
        return None
    return found


def _json(batch: pa.RecordBatch, at: int, dicts: list[dict[str, Any]] | None) -> bytes | Problem:
    try:
        values = dicts[at] if dicts is not None else batch.slice(at, 1).to_pylist()[0]
        return msgspec.json.encode(values, enc_hook=str)[:-1]
    except UnicodeError as error:
        return utf8_problem(error)
    except (TypeError, ValueError) as error:
        return Problem("wrong_type", f"a column cannot be written as JSON: {error}")


def scan_jsonl(paths: Sequence[Path]) -> dict[str, str]:
    """Columns of JSONL files and their Arrow types, from every line: what differs is JSON text."""
    seen: dict[str, set[str]] = {}
    for path in paths:
        with path.open("rb") as file:
            for line, _, whole in lines(file, 0, RECORD_LIMIT):
                found: Any = None
                with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    found = msgspec.json.decode(line) if whole and line.strip() else None
                for name, value in found.items() if isinstance(found, dict) else ():
                    seen.setdefault(name, set()).add(_kind(value))
    return {name: _united(kinds - {"null"}) for name, kinds in seen.items()}


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64" if -(2**63) <= value < 2**63 else "json"
    return {float: "double", str: "string"}.get(type(value), "json")


def _united(kinds: set[str]) -> str:
    if len(kinds) == 1:
        return kinds.pop()
    return "double" if kinds == {"int64", "double"} else "json" if kinds else "string"


class ArrowEncoder:
    """Rows as messages of Arrow's, from which the Parquet file is made at the end.

    Parquet has its directory at the file's end, so that a run that dies leaves none; messages can
    be appended, and cut off after the last one that counts.

    Args:
        columns: carried columns and their types (`scan_jsonl`); None: rows carry Arrow's own.
        schema: that of Arrow's own rows.
        vectors: name of the column of vectors.
        dimensions: numbers of a vector.
    """

    def __init__(
        self,
        columns: dict[str, str] | None,
        schema: pa.Schema | None,
        vectors: str,
        dimensions: int,
    ) -> None:
        pa = extras.require("embed")
        self._columns, self._own = columns, schema
        self._dimensions = dimensions
        if columns is not None:
            kinds = {name: "string" if kind == "json" else kind for name, kind in columns.items()}
            fields = [pa.field(name, kinds[name]) for name in columns]
        else:
            assert schema is not None
            # Messages are without the dictionaries that such columns would need.
            fields = [field.with_type(_plain(field.type)) for field in schema]
        wanted = pa.field(vectors, pa.list_(pa.float32(), dimensions))
        metadata = schema.metadata if schema is not None else None
        self._schema = pa.schema([*fields, wanted], metadata=metadata)

    @property
    def head(self) -> bytes:
        """Nothing stands before the rows."""
        return b""

    def encode(self, rows: Sequence[Row], vectors: Sequence[Vector]) -> bytes:
        """One message."""
        import pyarrow as pa

        if not rows:
            return b""
        numbers = pa.array(_joined(vectors), pa.float32())
        wide = pa.FixedSizeListArray.from_arrays(numbers, self._dimensions)
        batch = pa.RecordBatch.from_arrays([*self._carried(rows), wide], schema=self._schema)
        return bytes(batch.serialize())

    def _carried(self, rows: Sequence[Row]) -> list[Any]:
        import pyarrow as pa

        if self._columns is not None:
            return [
                pa.array([_value(row.carried.get(name), kind) for row in rows], _arrow(pa, kind))
                for name, kind in self._columns.items()
            ]
        assert self._own is not None
        pieces = [row.carried[0].slice(row.carried[1], 1) for row in rows]
        table = pa.Table.from_batches(pieces, schema=self._own)
        plain = pa.schema(list(self._schema)[:-1])
        return [column.chunk(0) for column in table.cast(plain).combine_chunks().columns]

    def finish(self, part: Path, _rows: int) -> Path:
        """Write the Parquet file beside `part`, whole and on the disk; returns its path."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        target = part.with_name(f"{part.name}.parquet")
        waiting: list[pa.RecordBatch] = []
        size = 0
        with part.open("rb") as file, target.open("wb") as out:
            with pq.ParquetWriter(out, self._schema, compression="zstd") as writer:
                for batch in self._messages(file):
                    waiting.append(batch)
                    size += batch.nbytes
                    if size >= GROUP_BYTES:
                        writer.write_table(pa.Table.from_batches(waiting))
                        waiting, size = [], 0
                if waiting:
                    writer.write_table(pa.Table.from_batches(waiting))
            sync(out)
        return target

    def _messages(self, file: Any) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        stream = pa.PythonFile(file, mode="r")
        while True:
            try:
                message = pa.ipc.read_message(stream)
            except EOFError:
                return
            yield pa.ipc.read_record_batch(message, self._schema)


def _joined(vectors: Sequence[Vector]) -> Any:
    """All numbers, one after another, without a copy a number."""
    import pyarrow as pa

    buffer = pa.py_buffer(b"".join(each.tobytes() for each in vectors))
    count = sum(map(len, vectors))
    return pa.Array.from_buffers(pa.float32(), count, [None, buffer])


def _plain(kind: Any) -> Any:
    """`kind` without a dictionary."""
    import pyarrow.types as kinds

    return kind.value_type if kinds.is_dictionary(kind) else kind


def _arrow(pa: Any, kind: str) -> Any:
    return pa.string() if kind == "json" else pa.type_for_alias(kind)


def _value(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "json":
        return msgspec.json.encode(value).decode()
    return float(value) if kind == "double" else value
