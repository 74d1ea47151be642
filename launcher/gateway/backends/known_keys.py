"""Which keys a file may hold, told without reading it: a Bloom filter in memory.

A read is handed to a thread and back, which costs a miss more than the read itself. Of a key that
is not in here there is surely no entry, as far as this process knows: what another process wrote
since the last look is made once more, and no answer is wrong.
"""

from __future__ import annotations

import threading
from typing import Final

_PROBES: Final = 4
_PROBE_BITS: Final = 32
_DIGEST: Final = slice(16, 32)
"""Of a key: bytes that are as good as random."""
_BYTES_AN_ENTRY: Final = 1024
"""Of the file: a byte of the filter for each leaves 0.2 % of errors to vectors of 384 numbers."""
LEAST_BYTES: Final = 1 << 14
MOST_BYTES: Final = 1 << 24


class KnownKeys:
    """Keys that were added, and a few that were not; of several threads."""

    def __init__(self, size: int = LEAST_BYTES) -> None:
        """`size`: bytes, a power of two."""
        self._bits = bytearray(size)
        self._mask = size * 8 - 1
        self._lock = threading.Lock()
        self.size = size
        self.added = 0
        """Keys that were not in it before, but for errors."""

    def add(self, key: bytes) -> None:
        """From now on it may be there."""
        number = int.from_bytes(key[_DIGEST], "little")
        with self._lock:
            self.added += key not in self
            for _ in range(_PROBES):
                place = number & self._mask
                self._bits[place >> 3] |= 1 << (place & 7)
                number >>= _PROBE_BITS

    def __contains__(self, key: bytes) -> bool:
        """Whether it may be there."""
        number = int.from_bytes(key[_DIGEST], "little")
        bits, mask = self._bits, self._mask
        for _ in range(_PROBES):
            place = number & mask
            if not bits[place >> 3] & 1 << (place & 7):
                return False
            number >>= _PROBE_BITS
        return True


def size_for(file_bytes: int) -> int:
    """Bytes of the filter of a file that may be so large: a power of two."""
    size = LEAST_BYTES
    while size < MOST_BYTES and size * _BYTES_AN_ENTRY < file_bytes:
        size *= 2
    return size
