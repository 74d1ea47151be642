"""How long the texts of a level are: all alike, or mixed by a fixed seed. Pure."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from launcher.documents.comparison import Level

MIXED: Final = (16, 400)
"""Tokens of the shortest and the longest text of `--tokens mixed`: a query, and a long passage."""
MOST: Final = 1_000_000
"""The longest text that can be asked for, against slips of the keyboard."""
TOO_FEW: Final = "there are not enough different texts"
"""How a level ends of which each text can be made of few words only."""
SEED: Final = 20260101
"""The same lengths in the same order for everything that is measured: else one mode would have had
the shorter texts."""


def lengths(level: Level) -> Iterator[int]:
    """Tokens of one text after the other, without end."""
    if level.shortest is None:
        return itertools.repeat(level.tokens)
    chance = random.Random(SEED)  # noqa: S311 - lengths of texts, no secrets
    return _drawn(chance, level.shortest, level.tokens)


def _drawn(chance: random.Random, least: int, most: int) -> Iterator[int]:
    while True:
        yield chance.randint(least, most)


@dataclass(frozen=True)
class Length:
    """One entry of `--tokens`."""

    tokens: int
    """Of every text, or of the longest."""
    shortest: int | None = None
    """Where lengths are mixed."""


def read_length(word: str) -> Length:
    """An entry of `--tokens`: `128`, `16-400`, or `mixed`.

    Raises:
        ValueError: it is none of these.
    """
    if word.strip() == "mixed":
        return Length(MIXED[1], MIXED[0])
    first, dash, last = word.partition("-")
    if not dash:
        return Length(_positive(first))
    shortest, longest = _positive(first), _positive(last)
    if shortest > longest:
        raise ValueError(f"{word} begins with the longest text")
    return Length(longest, None if shortest == longest else shortest)


def _positive(word: str) -> int:
    number = int(word)
    if not 0 < number <= MOST:
        raise ValueError(f"{word} is not a number of tokens")
    return number
