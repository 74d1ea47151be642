"""Cutting a text to what the server takes: its own tokenizer counts, by its refusals.

The launcher has no tokenizer. A text that is too long is cut at the end of a word, and the longest
beginning that the server takes is found by halving: a dozen calls for a text of 64 kB, most of them
refused before anything is computed.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final

from launcher.corpus.endpoints import RefusedError
from launcher.corpus.records import Vector

_TOO_LONG: Final = re.compile(r"token|too long|longer|context|too large|bytes", re.IGNORECASE)
_WORD: Final = re.compile(r"\S+")
_LONG_WORD: Final = 32
"""Characters from which a word may be cut within: languages without spaces, encoded data."""

_COUNTS: Final = re.compile(r"has (\d+) tokens, and this service takes (\d+) at most")
"""What the guard says of a text that is too long."""
_GUESSES: Final = 6
"""Steps that trust the counts of tokens; halving needs no trust."""

Ask = Callable[[str], Awaitable[tuple[Vector, int | None]]]
"""Embeds one text: its vector, and the tokens counted; raises `RefusedError`."""


def speaks_of_length(message: str) -> bool:
    """Whether a refusal is about how long a text is."""
    return _TOO_LONG.search(message) is not None


def cut_bytes(text: str, most: int) -> str:
    """The beginning of `text` that has at most `most` bytes of UTF-8."""
    return text.encode()[:most].decode("utf-8", "ignore")


def cuts(text: str) -> list[int]:
    """Where `text` may end, in order: after a word, and anywhere in a long one."""
    ends: list[int] = []
    for word in _WORD.finditer(text):
        if word.end() - word.start() > _LONG_WORD:
            ends += range(word.start() + 1, word.end())
        ends.append(word.end())
    return ends


async def longest(text: str, ask: Ask) -> Vector | None:
    """The vector of the longest beginning of `text` that the server takes; None if it takes none.

    Args:
        text: what was refused as a whole.
        ask: embeds a beginning of it, with its prompt.
    """
    ends = cuts(text)
    found: Vector | None = None
    low, high = 0, len(ends) - 1  # what ends before `low` is taken; at `high` and on it is not
    taken: int | None = 0
    refused: int | None = None
    most: int | None = None
    for step in range(len(ends)):
        if low >= high or (most is not None and taken == most):
            break
        at = (low + high) // 2
        if step < _GUESSES and most is not None and taken is not None and refused is not None:
            share = (most - taken) / max(1, refused - taken)
            at = min(high - 1, max(low, low + int(share * (high - low)) - 1))
        try:
            found, taken = await ask(text[: ends[at]])
            low = at + 1
        except RefusedError as error:
            if not speaks_of_length(str(error)):
                raise
            if counts := _COUNTS.search(str(error)):
                refused, most = int(counts[1]), int(counts[2])
            high = at
    return found
