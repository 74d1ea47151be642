"""Numbers with units, for people."""

from __future__ import annotations


def size(count: float | None) -> str:
    """Bytes for people: `1.3 GB`, `451 MB`; `not measured` for None."""
    if count is None:
        return "not measured"
    if count >= 1e9:
        return f"{count / 1e9:.2f} GB"
    if count >= 1e6:
        return f"{count / 1e6:.0f} MB"
    return f"{count / 1e3:.0f} kB"
