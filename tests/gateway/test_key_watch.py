"""Keys that are worth a read: none that is there is missed for long; absent ones ask no file."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from launcher.gateway.backends import key_watch
from launcher.gateway.backends.backend import LEAST_BYTES, BackendError, CacheSettings
from launcher.gateway.backends.key_watch import KeyWatch
from launcher.gateway.backends.known_keys import KnownKeys, size_for
from launcher.gateway.backends.sqlite import SqliteBackend
from launcher.gateway.identity import KEY_BYTES
from launcher.gateway.store import Store
from tests.gateway.harness import SECRET, run
from tests.gateway.test_backends import small
from tests.patience import PATIENCE_S, eventually


def some(count: int) -> list[bytes]:
    return [os.urandom(KEY_BYTES) for _ in range(count)]


def knows(watch: KeyWatch, keys: Sequence[bytes]) -> bool:
    return list(watch.candidates(keys)) == list(keys)


def test_what_was_added_is_there_and_hardly_anything_else() -> None:
    known = KnownKeys(1 << 14)
    keys, others = some(8000), some(8000)
    for key in keys:
        known.add(key)
    assert all(key in known for key in keys)
    # 16 bits a key and four probes: 0.24 % of errors; 2 % would be another filter.
    assert sum(key in known for key in others) < 160
    assert known.added > 7900
    for key in keys:
        known.add(key)
    assert known.added <= 8000, "a key that is there already is no further one"


@pytest.mark.parametrize(
    ("file_bytes", "size"),
    [(0, 1 << 14), (LEAST_BYTES, 1 << 15), (1 << 30, 1 << 20), (1 << 40, 1 << 24)],
)
def test_the_filter_is_a_thousandth_of_the_file(file_bytes: int, size: int) -> None:
    assert size_for(file_bytes) == size


def test_all_are_worth_a_read_until_the_file_is_known(tmp_path: Path) -> None:
    """The first question begins the reading of the file, which may not end before it is told to."""
    kept, absent = some(700), some(50)
    backend = small(tmp_path)
    backend.set_many(dict.fromkeys(kept, b"x"))
    may_read = threading.Event()

    class Held:
        """The file, which gives no key away before the event."""

        def follow_path(self) -> None:
            backend.follow_path()

        def newest(self) -> int:
            return backend.newest()

        def keys_since(self, number: int, most: int) -> list[tuple[int, bytes]]:
            return backend.keys_since(number, most)

        def keys_after(self, key: bytes, most: int) -> list[bytes]:
            may_read.wait()
            return backend.keys_after(key, most)

    watch = KeyWatch(Held(), LEAST_BYTES)
    try:
        assert list(watch.candidates(absent)) == absent
        assert watch._known is None
        assert list(watch.candidates(absent)) == absent
        may_read.set()
        eventually(lambda: watch._known is not None)
        assert knows(watch, kept)
        assert len(watch.candidates(absent)) < 5
    finally:
        may_read.set()
        watch.close()
        backend.close()


def test_what_another_process_wrote_is_known_at_the_next_look(tmp_path: Path) -> None:
    backend, other = small(tmp_path), small(tmp_path)
    watch = KeyWatch(backend, LEAST_BYTES)
    try:
        other.set_many(dict.fromkeys(some(10), b"x"))
        watch.look()
        for _ in range(3):
            theirs = some(600)
            other.set_many(dict.fromkeys(theirs, b"x"))
            watch.look()
            assert knows(watch, theirs)
        other.purge()
        after = some(5)  # their numbers begin at 1 again
        other.set_many(dict.fromkeys(after, b"x"))
        watch.look()
        assert knows(watch, after)
    finally:
        watch.close()
        backend.close()
        other.close()


def test_own_writes_are_known_at_once_and_while_the_file_is_being_read(tmp_path: Path) -> None:
    backend = small(tmp_path)
    backend.set_many(dict.fromkeys(some(10), b"x"))

    class Slow:
        """The file, which another thread writes to after the first keys were read."""

        def follow_path(self) -> None:
            backend.follow_path()

        def newest(self) -> int:
            return backend.newest()

        def keys_since(self, number: int, most: int) -> list[tuple[int, bytes]]:
            return backend.keys_since(number, most)

        def keys_after(self, key: bytes, most: int) -> list[bytes]:
            keys = backend.keys_after(key, most)
            if not keys:
                watch.add(mine)
            return keys

    mine = [b"\0" * 16 + os.urandom(32)]
    watch = KeyWatch(Slow(), LEAST_BYTES)
    watch.look()
    assert knows(watch, mine)
    backend.close()


def test_what_is_known_for_too_long_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = small(tmp_path)
    watch = KeyWatch(backend, LEAST_BYTES)
    watch.look()
    absent = some(3)
    try:
        monkeypatch.setattr(key_watch, "LOOK_S", 3600.0)
        assert list(watch.candidates(absent)) == []
        monkeypatch.setattr(key_watch, "_STALE_S", -1.0)
        assert list(watch.candidates(absent)) == absent
    finally:
        watch.close()
        backend.close()


def test_a_crowded_filter_is_begun_anew_without_what_is_gone(tmp_path: Path) -> None:
    backend = small(tmp_path)
    watch = KeyWatch(backend, LEAST_BYTES)
    watch.look()
    gone = some(watch._most + 1000)
    watch.add(gone)
    kept = some(3)
    backend.set_many(dict.fromkeys(kept, b"x"))
    watch.look()
    assert knows(watch, kept)
    assert len(watch.candidates(gone)) < 100
    watch.close()
    backend.close()


def test_a_file_that_cannot_be_asked_leaves_all_worth_a_read(tmp_path: Path) -> None:
    backend = small(tmp_path)
    watch = KeyWatch(backend, LEAST_BYTES)
    watch.look()
    backend.close()
    with pytest.raises(BackendError):
        watch.look()
    absent = some(3)
    eventually(lambda: list(watch.candidates(absent)) == absent)
    watch.close()


def test_a_miss_asks_no_thread_and_a_kept_one_is_found(tmp_path: Path) -> None:
    """The read of a file in a thread took a miss longer than all else in the gateway."""

    class Counting(SqliteBackend):
        reads = 0

        def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
            self.reads += len(keys)
            return super().get_many(keys)

    async def work() -> None:
        backend = Counting(tmp_path / "v.db", CacheSettings(url="", max_bytes=LEAST_BYTES))
        store = Store(backend, SECRET, budget_s=PATIENCE_S, memory_bytes=0)
        kept, absent = some(20), some(20)
        store.keep({key: bytes(16) for key in kept})
        await store.flush()
        backend.candidates(kept)
        backend._watch.look()
        backend.reads = 0
        assert await store.read(absent) == {}
        assert backend.reads < 3
        assert set(await store.read(kept)) == set(kept)
        assert backend.reads < 23
        assert store.counts.misses == 20
        assert store.counts.bypassed == 0
        await store.close()

    run(work())
