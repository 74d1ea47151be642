"""The words of a command: options, and the values that belong to them. Pure."""

from __future__ import annotations

from collections.abc import Iterable

FlagValue = bool | int | float | str | list[str]
"""What an option of the engine is given: true is the option alone, false leaves it out, a list is
one value after another."""


def grouped(words: Iterable[str]) -> list[tuple[str, ...]]:
    """The words of a command, an option together with its values; what comes first by itself."""
    groups: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not groups:
            groups.append([word])
        else:
            groups[-1].append(word)
    return [tuple(group) for group in groups]


def whole(word: str) -> int | None:
    """The whole number that a word is; None where it is none, or has more digits than Python reads:
    the engine is a Python too."""
    try:
        return int(word) if word.removeprefix("-").isdecimal() else None
    except ValueError:
        return None


def options(words: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Values by option, without the dashes; of an option given twice, the last ones count."""
    values: dict[str, tuple[str, ...]] = {}
    for first, *rest in grouped(words):
        if first.startswith("--"):
            name, equals, value = first.removeprefix("--").partition("=")
            values[name] = (value, *rest) if equals else tuple(rest)
    return values
