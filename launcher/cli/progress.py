"""Progress for people, on stderr: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time


class Progress:
    """Phases with elapsed time. Silent when `quiet`."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._began = time.monotonic()
        self._quiet = quiet
        self._live = False
        self._terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

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
