"""Rows of an input, and why one has no vector. Plain values."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from launcher.errors import QlaunchError

RECORD_LIMIT = 16 << 20
"""Most bytes of one record: what is longer is no text of a sentence or a page."""

Vector: TypeAlias = "array[float]"
"""Numbers of one vector, float32."""

Carry = Literal["json", "values", "nothing"]
"""How the other columns of a row are carried along: as JSON text, as Python or Arrow values."""

Reason = Literal[
    "empty",
    "too_long",
    "invalid_utf8",
    "unreadable",
    "missing_column",
    "wrong_type",
    "column_taken",
    "refused",
    "failed",
]


class Position(msgspec.Struct, frozen=True, order=True):
    """How far the inputs are read."""

    file: int = 0
    """Index of the input."""
    row: int = 0
    """Rows of it that are read."""
    offset: int = 0
    """Bytes of it that are read; of a Parquet file, rows."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row has no vector."""

    reason: Reason
    message: str
    """For people, without the text itself."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it was read: a text, or a problem."""

    number: int
    """From 1, in its file: of text and JSONL the line, of CSV and Parquet the record."""
    after: Position
    """Where the next row begins."""
    text: str = ""
    carried: Any = None
    """The whole row as the output wants it (`Carry`)."""
    size: int = 0
    """Bytes that it holds, about."""
    problem: Problem | None = None


class Source(Protocol):
    """One input file, opened."""

    path: Path

    def rows(self, start: Position) -> Iterator[Row]:
        """Rows from `start` on, in order; memory is bounded whatever the file's size."""

    def share(self, position: Position) -> float:
        """The part of the file that lies before `position`, 0 to 1."""


def utf8_problem(error: UnicodeError) -> Problem:
    """The problem of bytes that are no UTF-8."""
    return Problem("invalid_utf8", f"not valid UTF-8 ({error})")


def unreadable(path: Path, why: str, fix: str | None = None) -> QlaunchError:
    """The `input_unreadable` error (exit 2) of a whole file."""
    return QlaunchError(f"cannot read {path}: {why}", code="input_unreadable", fix=fix)
