"""Progress for people, on stderr: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, Self


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
        width = max(20, _columns() - 12)
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
        self._rich: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def begin(self, text: str, total: int) -> None:
        """Start at 0 of `total` with a new text."""
        if not self._shown:
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Rich

        self._stop()
        self._progress.done()
        self._rich = Rich(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._rich.start()
        self._task = self._rich.add_task(text, total=total)

    def at(self, done: int, _seconds: float = 0.0) -> None:
        """So much is done."""
        if self._rich is not None:
            self._rich.update(self._task, completed=done)

    def _stop(self) -> None:
        if self._rich is not None:
            self._rich.stop()
            self._rich = None
