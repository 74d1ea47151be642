"""Rows into calls: always the same calls from the same place, so that a run can be repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from launcher.corpus.records import Position, Problem, Row
from launcher.corpus.truncation import cut_bytes

_HELD: int = 4 << 20
"""Most bytes of the rows of one batch, other columns included."""
_BAD_ROWS: int = 4
"""A batch ends after so many times its texts in rows, bad ones included."""


@dataclass(frozen=True)
class Limits:
    """What one call may have."""

    texts: int
    call_bytes: int
    """Of all its texts."""
    text_bytes: int | None
    """Of one text; None: the server says."""
    truncate: bool = False
    """Whether a longer text is cut to that before the server cuts it to its tokens."""


@dataclass
class Batch:
    """Rows in a row, and the texts of the good ones as they are sent."""

    rows: list[Row] = field(default_factory=list)
    good: list[Row] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    """Of `good`, without their prompt."""
    bad: list[Row] = field(default_factory=list)
    size: int = 0
    bytes: int = 0

    @property
    def after(self) -> Position:
        """Where the next batch begins."""
        return self.rows[-1].after


def batches(rows: Iterator[Row], limits: Limits, worded: Callable[[str], str]) -> Iterator[Batch]:
    """Batches of `rows`; a text that is longer than a call may be goes alone."""
    batch = Batch()
    for row in rows:
        row, text = _checked(row, limits)
        more = 0 if row.problem else len(worded(text).encode())
        if batch.texts and batch.bytes + more > limits.call_bytes:
            yield batch
            batch = Batch()
        batch.rows.append(row)
        batch.size += row.size
        if row.problem:
            batch.bad.append(row)
        else:
            batch.good.append(row)
            batch.texts.append(text)
            batch.bytes += more
        many = len(batch.rows) >= _BAD_ROWS * limits.texts
        if len(batch.texts) >= limits.texts or batch.size >= _HELD or many:
            yield batch
            batch = Batch()
    if batch.rows:
        yield batch


def failed(row: Row, problem: Problem) -> Row:
    """`row` with a problem, and without what it carried."""
    return Row(row.number, row.after, problem=problem)


def _checked(row: Row, limits: Limits) -> tuple[Row, str]:
    """`row`, with a problem where no server would take it, and the text to send."""
    text = row.text
    if row.problem is not None:
        return row, ""
    if not text.strip():
        return failed(row, Problem("empty", "the text is empty or white space only")), ""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        return failed(row, Problem("invalid_utf8", f"half a character: {error.reason}")), ""
    if limits.text_bytes is not None and size > limits.text_bytes:
        if not limits.truncate:
            said = f"the text has {size} bytes, and {limits.text_bytes} are the most"
            return failed(row, Problem("too_long", said)), ""
        text = cut_bytes(text, limits.text_bytes)
    return row, text
