"""Compute capabilities and driver versions, as catalogues write them and as they compare."""

from __future__ import annotations


def capability(text: str | None) -> tuple[int, int] | None:
    """Major and minor of a compute capability such as `7.5`; None stays None."""
    if text is None:
        return None
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


def dots(have: tuple[int, int]) -> str:
    """A compute capability as people write it."""
    return f"{have[0]}.{have[1]}"


def is_older(driver: str | None, than: str | None) -> bool:
    """Whether a driver (`580.95.05`, `535`) is older than another; False where one is not known."""
    return driver is not None and than is not None and _numbers(driver) < _numbers(than)


def _numbers(version: str) -> tuple[int, ...]:
    """The parts as numbers; a part that is none counts as 0."""
    return tuple(int(part) if part.isdecimal() else 0 for part in version.split("."))
