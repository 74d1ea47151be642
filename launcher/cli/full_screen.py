"""The terminal's other screen, for a view that is drawn again and again.

A few control sequences of ECMA-48 and xterm: a library for them (rich, with Pygments) weighs 14 MB.
"""

from __future__ import annotations

import contextlib
import sys
import unicodedata
from collections.abc import Sequence
from typing import Final, Self, TextIO

_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[2J"
"""The other screen, no cursor, nothing on it."""
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


class FullScreen:
    """The other screen of the terminal that stdout is; the first one is put back at the end."""

    def __enter__(self) -> Self:
        _write(sys.stdout, _ENTER)
        return self

    def __exit__(self, *_: object) -> None:
        # The terminal may have gone (SIGHUP): there is nothing to put back then.
        with contextlib.suppress(OSError):
            _write(sys.stdout, _LEAVE)

    @staticmethod
    def draw(lines: Sequence[str]) -> None:
        """Replace what is shown; at most as many lines as the terminal has, none wider than it."""
        text = f"{_REST_OF_LINE}\r\n".join(lines)
        _write(sys.stdout, f"{_HOME}{text}{_REST_OF_LINE}{_REST_OF_SCREEN}")


def columns(text: str) -> int:
    """How many columns of a terminal a text takes: wide characters take two, accents none."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


def printable(text: str) -> str:
    """`text` without what moves the cursor or changes colours: a log's lines may hold that."""
    return "".join(one for one in text if one.isprintable() or unicodedata.category(one) == "Cf")


def cut(text: str, width: int) -> str:
    """`text` in at most `width` columns of a terminal, `…` at its end where it was cut."""
    if columns(text) <= width:
        return text
    taken = 0
    for at, character in enumerate(text):
        taken += _columns(character)
        if taken > width - 1:
            return text[:at] + "…" * (width > 0)
    return text


def _write(stream: TextIO, text: str) -> None:
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()
