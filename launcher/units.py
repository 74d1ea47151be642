"""Sizes for people, times for records."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

GIB: Final = 1 << 30


def now() -> str:
    """The time of day as records hold it: ISO 8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def size(count: float | None) -> str:
    """Bytes for people, in decimal units: `1.30 GB`, `23.5 GB`, `451 MB`; None: `not measured`."""
    if count is None:
        return "not measured"
    if count >= 1e9:
        return f"{count / 1e9:.{2 if count < 1e10 else 1 if count < 1e11 else 0}f} GB"
    if count >= 1e6:
        return f"{count / 1e6:.0f} MB"
    return f"{count / 1e3:.0f} kB"
