"""Progress for people, on stderr: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from typing import Final, Self

_BEFORE: Final = 12
"""Columns that the elapsed seconds take."""
_BETWEEN_S: Final = 0.25
"""Between two drawings of a bar: they take time of the process that measures."""


class Progress:
    """Phases with elapsed time. Silent when `quiet`."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._began = time.monotonic()
        self._quiet = quiet
        self._live = False
        self._terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    @property
    def live(self) -> bool:
        """Whether something that moves can be shown."""
        return self._terminal and not self._quiet

    def line(self, text: str) -> None:
        """One finished line, with the seconds since the command began."""
        if self._quiet:
            return
        self._clear()
        self._write(f"[{time.monotonic() - self._began:6.1f} s] {text}\n")

    def now(self, text: str) -> None:
        """What is going on this moment: replaced by the next call, dropped without a terminal."""
        if self._quiet or not self._terminal:
            return
        self._clear()
        width = max(20, _columns() - _BEFORE)
        self._write(f"[{time.monotonic() - self._began:6.1f} s] {text[:width]}")
        self._live = True

    def done(self) -> None:
        """Leave the terminal on a fresh line."""
        self._clear()

    def _clear(self) -> None:
        if self._live:
            self._write("\r\x1b[2K")
            self._live = False

    @staticmethod
    def _write(text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError):
            # stderr is closed: there is nobody to tell, and the work goes on.
            pass


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        return 80


class Bar:
    """A bar for work of a known length, on a terminal; elsewhere finished lines have to do.

    Args:
        progress: what is shown beside it; its live line is cleared.
        quiet: show nothing.
    """

    def __init__(self, progress: Progress, *, quiet: bool = False) -> None:
        self._progress = progress
        self._shown = progress.live and not quiet
        self._text: str | None = None
        self._total = 0
        self._limit_s: float | None = None
        self._drawn = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def begin(self, text: str, total: int, limit_s: float | None = None) -> None:
        """Start with a new text: full at `total`, or after `limit_s` seconds where given."""
        self.clear()
        if not self._shown:
            return
        self._text, self._total, self._limit_s = text, total, limit_s
        self._draw(0, 0.0)
        self._drawn = 0.0

    def at(self, done: int, seconds: float = 0.0) -> None:
        """So much is done, after so many seconds."""
        if self._text is not None and time.monotonic() >= self._drawn + _BETWEEN_S:
            share = done / max(self._total, 1)
            self._draw(done, max(share, seconds / self._limit_s) if self._limit_s else share)
            self._drawn = time.monotonic()

    def _draw(self, done: int, share: float) -> None:
        room = max(_columns() - _BEFORE - len(f"{self._text}  {done} done"), 0)
        full = round(min(share, 1.0) * room)
        self._progress.now(f"{self._text} {'━' * full}{'─' * (room - full)} {done} done")

    def clear(self) -> None:
        """Take the bar away, so that a line can stand in its place."""
        if self._text is not None:
            self._progress.done()
            self._text = None
