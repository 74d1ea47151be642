"""The vectors used last, in memory: what is asked for often costs no thread and no connection.

A hand-over to a thread and back costs a request more than all the rest of a hit. Entries stay for
a minute at most and are then read from the store again, so that what was purged there goes here.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

MEMORY_BYTES: Final = 64 << 20
LONGEST_S: Final = 60.0
_ENTRY_BYTES: Final = 300
"""Of Python's objects around one vector and its key."""


class RecentVectors:
    """Vectors by key, the least recently used ones going first."""

    def __init__(
        self, most_bytes: int = MEMORY_BYTES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`most_bytes` 0 keeps nothing."""
        self._most_bytes = most_bytes
        self._clock = clock
        self._entries: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        self.bytes = 0

    def get(self, key: bytes) -> bytes | None:
        """The vector of a key; None where it is not there, or has been for too long."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        vector, until = entry
        if self._clock() >= until:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return vector

    def put(self, key: bytes, vector: bytes) -> None:
        """Keep a vector; others go where there is no room, or their time is over."""
        if len(vector) + _ENTRY_BYTES > self._most_bytes:
            return
        if key in self._entries:
            self._remove(key)
        now = self._clock()
        self._entries[key] = (vector, now + LONGEST_S)
        self.bytes += len(vector) + _ENTRY_BYTES
        # What was last used longer ago than it may stay is first in line, and never asked for.
        while self.bytes > self._most_bytes or self._first_until() <= now:
            self._remove(next(iter(self._entries)))

    def _first_until(self) -> float:
        return next(iter(self._entries.values()))[1]

    def _remove(self, key: bytes) -> None:
        vector, _until = self._entries.pop(key)
        self.bytes -= len(vector) + _ENTRY_BYTES
