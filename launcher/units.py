"""Sizes for people, times for records."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

MIB: Final = 1 << 20
GIB: Final = 1 << 30


def now() -> str:
    """The time of day as records hold it: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment(text: str) -> datetime | None:
    """The time that a record holds; None where it holds none, or does not say of which zone."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else None


def size(count: float | None) -> str:
    """Bytes for people, in decimal units: `1.30 GB`, `23.5 GB`, `451 MB`; None: `not measured`."""
    if count is None:
        return "not measured"
    if count >= 1e9:
        return f"{count / 1e9:.{2 if count < 1e10 else 1 if count < 1e11 else 0}f} GB"
    if count >= 1e6:
        return f"{count / 1e6:.0f} MB"
    return f"{count / 1e3:.0f} kB"


def counted(count: float, noun: str, form: str = "") -> str:
    """`1 vector`, `2 vectors`, `1 entry`, `1,234 rows`.

    Args:
        count: how many.
        noun: for one.
        form: of the number, as format() takes it.
    """
    many = f"{noun[:-1]}ies" if noun.endswith("ry") else f"{noun}s"
    return f"{count:{form}} {noun if count == 1 else many}"


def off(error: float | None) -> str:
    """How far a prediction was off, in words: `9 % too high`; nothing where it is not known.

    Args:
        error: predicted / measured - 1.
    """
    if error is None:
        return ""
    percent = round(100 * abs(error))
    return f"{percent} % too {'high' if error > 0 else 'low'}" if percent else "as measured"


_METHODS = {"pss": "PSS", "rss": "RSS", "per_process": "by process", "device_delta": "whole GPU"}


def peak(method: str | None) -> str:
    """`peak (PSS)`: that the figure before it is the largest, and how it was measured."""
    return f"peak ({_METHODS[method]})" if method in _METHODS else "(unavailable)"


def length(tokens: int, shortest: int | None = None, *, to: str = "-") -> str:
    """Tokens of a text: `128`, or `16-400` where lengths are mixed."""
    return f"{tokens}" if shortest is None else f"{shortest}{to}{tokens}"
