"""Which keys of a file are worth a read: kept in memory, and up to date with other processes.

A thread reads all keys once, and each second what was written since, by whomever. Own writes are
known at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from launcher.gateway.backends.backend import BackendError
from launcher.gateway.backends.known_keys import KnownKeys, size_for

LOOK_S: Final = 1.0
"""Between two looks for what other processes wrote; a file that nobody asks for is left alone."""
_STALE_S: Final = 3.0
"""After which what is known is not believed: the thread was late, or nobody had asked."""
_ROWS: Final = 256
"""Read in one go."""
_BREATH_S: Final = 0.002
"""Between two goes: requests are answered by another thread of this process meanwhile."""


class KeyedFile(Protocol):
    """What is asked of the file; each raises `BackendError`, but for the first."""

    def follow_path(self) -> None:
        """Leave a file that was removed."""
        ...

    def keys_after(self, key: bytes, most: int) -> list[bytes]:
        """The next keys in their own order."""
        ...

    def keys_since(self, number: int, most: int) -> list[tuple[int, bytes]]:
        """The next keys in the order in which they were written, each with its number."""
        ...

    def newest(self) -> int:
        """The number of the entry that was written last; 0: there is none."""
        ...


class KeyWatch:
    """The keys of one file."""

    def __init__(self, file: KeyedFile, file_bytes: int) -> None:
        """No thread runs until the first question."""
        self._file = file
        self._size = size_for(file_bytes)
        self._known: KnownKeys | None = None
        self._next: KnownKeys | None = None
        """The one that is being filled."""
        self._most = 0
        """Keys that it may have before it is begun anew, without those that are gone."""
        self._number = 0
        self._looked_at = float("-inf")
        self._asked = False
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def candidates(self, keys: Sequence[bytes]) -> Sequence[bytes]:
        """Those that may be there; all of them while nothing is known."""
        self._asked = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="cache-keys", daemon=True)
            self._thread.start()
        known = self._known
        if known is None or time.monotonic() - self._looked_at > _STALE_S:
            return keys
        return [key for key in keys if key in known]

    def add(self, keys: Iterable[bytes]) -> None:
        """This process wrote them."""
        for known in (self._known, self._next):
            if known is not None:
                for key in keys:
                    known.add(key)

    def close(self) -> None:
        """End the thread, and wait for it."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(LOOK_S)

    def _run(self) -> None:
        while True:
            self._file.follow_path()
            if self._asked:
                self._asked = False
                try:
                    self.look()
                except BackendError:  # whoever asks for an entry will be told
                    self._known = None
            if self._closed.wait(LOOK_S):
                return

    def look(self) -> None:
        """Learn of what was written since the last look, or of all.

        Raises:
            BackendError: the file cannot be asked.
        """
        begun = time.monotonic()
        if self._known is None or self._known.added > self._most:
            self._read_all()
        else:
            self._follow(self._known)
        self._looked_at = begun

    def _read_all(self) -> None:
        self._next = known = KnownKeys(self._size)
        try:
            self._number = self._file.newest()
            last = b""
            while keys := self._file.keys_after(last, _ROWS):
                for key in keys:
                    known.add(key)
                last = keys[-1]
                if self._closed.wait(_BREATH_S):
                    return
            self._known = known
            self._most = max(self._size, 2 * known.added)
        finally:
            self._next = None

    def _follow(self, known: KnownKeys) -> None:
        if self._file.newest() < self._number:
            self._number = 0  # it was emptied
        while rows := self._file.keys_since(self._number, _ROWS):
            for number, key in rows:
                known.add(key)
                self._number = number
            if self._closed.wait(_BREATH_S):
                return
