"""Requests that go past the cache: by HTTP's own words for that.

`Cache-Control: no-cache` or `no-store` has every input made now, one that occurs twice twice; none
of it is read from the cache, kept, or shared with other requests. Who measures a server asks so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

HEADER: Final = "Cache-Control"
PAST: Final = "no-store"
"""What our own measurements send."""
_WORDS: Final = frozenset({"no-cache", PAST})


def goes_past(lines: Iterable[str]) -> bool:
    """Whether a request asks for vectors that are made now: by any of its headers of that name."""
    return any(word.strip().lower() in _WORDS for line in lines for word in line.split(","))
