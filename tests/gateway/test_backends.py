"""The three stores, real ones: what goes in comes out, bounds hold, and every fault is an error."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import socketserver
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import QlaunchError
from launcher.gateway.backends.backend import LEAST_BYTES, Backend, BackendError, CacheSettings
from launcher.gateway.backends.opening import caution, open_backend
from launcher.gateway.backends.sqlite import SqliteBackend
from launcher.gateway.entry import unpack
from launcher.gateway.identity import KEY_BYTES
from launcher.gateway.store import Store
from tests.gateway.conftest import Start, free_port
from tests.gateway.harness import SECRET, Bench, Memory, run
from tests.gateway.scripted_server import truth
from tests.patience import PATIENCE_S, eventually, no_hang

SPACE = b"*space?[]-^\\\x00\r\n"[:16].ljust(16, b"x")
OTHER = bytes(range(16))


def key(n: int, space: bytes = SPACE) -> bytes:
    return space + n.to_bytes(32, "big")


def entries(count: int, size: int = 100, space: bytes = SPACE) -> dict[bytes, bytes]:
    return {key(n, space): n.to_bytes(4, "big") + os.urandom(size) for n in range(count)}


def grown(reader: SqliteBackend, before: int) -> bool:
    return (reader.stats().entries or 0) != before


def small(tmp_path: Path) -> SqliteBackend:
    return SqliteBackend(tmp_path / "cache" / "v.db", CacheSettings(url="", max_bytes=LEAST_BYTES))


@contextlib.contextmanager
def no_room() -> Iterator[None]:
    """No file grows beyond 16 kB: SQLite's index has 32, its log hundreds."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 10, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestAll:
    def test_what_went_in_comes_out_in_order(self, backend: Backend) -> None:
        kept = entries(1200)
        backend.set_many(kept)
        asked = [*reversed(kept), key(5000), key(7)]
        expected = [*reversed(kept.values()), None, kept[key(7)]]
        assert backend.get_many(asked) == expected
        backend.set_many({key(7): b"new"})
        assert backend.get_many([key(7), key(8)]) == [b"new", kept[key(8)]]

    def test_counts(self, backend: Backend) -> None:
        backend.set_many(entries(10))
        assert backend.stats().entries == 10
        assert (backend.stats().bytes or 0) > 1000

    def test_purge_takes_one_space_or_all(self, backend: Backend) -> None:
        if backend.name.startswith("memcached"):
            with pytest.raises(BackendError, match="cannot list"):
                backend.purge()
            return
        backend.set_many(entries(10) | entries(4, space=OTHER))
        assert backend.purge(SPACE) == 10
        assert backend.get_many([key(1)]) == [None]
        assert backend.get_many([key(1, OTHER)]) != [None]
        assert backend.purge() == 4
        assert backend.stats().entries == 0

    def test_a_closed_one_fails_and_does_not_hang(self, backend: Backend) -> None:
        backend.set_many(entries(2))
        backend.close()
        with no_hang(), contextlib.suppress(BackendError):
            assert len(backend.get_many([key(1)])) == 1  # a client may connect anew


class TestSqlite:
    def test_the_file_keeps_its_bound_and_the_used_ones_stay(self, tmp_path: Path) -> None:
        backend = small(tmp_path)
        size = 16_000
        hot = {key(n, OTHER): os.urandom(size) for n in range(20)}
        backend.set_many(hot)
        folder = tmp_path / "cache"
        for begin in range(0, 6000, 50):
            backend.set_many({key(n): os.urandom(size) for n in range(begin, begin + 50)})
            assert sum(f.stat().st_size for f in folder.iterdir()) <= LEAST_BYTES
            assert backend.get_many(list(hot)) == list(hot.values())
        assert backend.get_many([key(5999)]) != [None]
        assert backend.get_many([key(0)]) == [None]
        assert 800 < (backend.stats().entries or 0) < 1600
        backend.close()

    def test_an_entry_ends_with_its_time(self, tmp_path: Path, monkeypatch: Any) -> None:
        backend = SqliteBackend(tmp_path / "v.db", CacheSettings(url="", ttl_s=100))
        backend.set_many(entries(1))
        assert backend.get_many([key(0)]) != [None]
        now = __import__("time").time()
        monkeypatch.setattr("launcher.gateway.backends.sqlite.time.time", lambda: now + 101)
        assert backend.get_many([key(0)]) == [None]
        monkeypatch.setattr("launcher.gateway.backends.sqlite.time.time", lambda: now - 1e6)
        assert backend.get_many([key(0)]) != [None]  # the clock went back: it stays, and is right
        backend.close()

    def test_others_cannot_read_it_and_the_folder_of_others_stays(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o755)
        backend = SqliteBackend(tmp_path / "v.db", CacheSettings(url=""))
        backend.set_many(entries(1))
        assert {f.stat().st_mode & 0o077 for f in tmp_path.glob("v.db*")} == {0}
        assert tmp_path.stat().st_mode & 0o777 == 0o755
        backend.close()

    def test_a_bound_that_is_too_small_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(QlaunchError, match="too few"):
            SqliteBackend(tmp_path / "v.db", CacheSettings(url="", max_bytes=1000))

    def test_a_folder_in_its_place_is_an_error_with_its_path(self, tmp_path: Path) -> None:
        with pytest.raises(QlaunchError, match=str(tmp_path)) as caught:
            SqliteBackend(tmp_path, CacheSettings(url=""))
        assert caught.value.code == "cache_unusable"

    @pytest.mark.parametrize("damage", ["garbage", "truncated", "zeros", "empty", "all zeros"])
    def test_a_damaged_file_is_begun_anew(self, tmp_path: Path, damage: str) -> None:
        backend = small(tmp_path)
        kept = entries(3000, 1000)
        backend.set_many(kept)
        backend.close()
        path = tmp_path / "cache" / "v.db"
        content = bytearray(path.read_bytes())
        if damage == "garbage":
            content[8192:] = os.urandom(len(content) - 8192)
        elif damage == "truncated":
            del content[len(content) // 3 :]
        elif damage == "zeros":
            content[8192:] = bytes(len(content) - 8192)
        else:
            content = bytearray(0 if damage == "empty" else 100_000)
        path.write_bytes(content)
        again = small(tmp_path)
        for _ in range(3):
            for k, value in kept.items():
                try:
                    assert again.get_many([k]) in ([value], [None])
                except BackendError:
                    break
            else:
                break
        again.set_many(kept)
        assert again.get_many(list(kept)) == list(kept.values())
        again.close()

    def test_a_further_thread_leaves_the_locks_of_the_others(self, tmp_path: Path) -> None:
        """Whoever opens and closes the file ends SQLite's locks on it in its process: another
        process then removed the log that this one wrote to.
        """
        backend = small(tmp_path)
        backend.set_many(entries(1))
        reading = threading.Thread(target=backend.get_many, args=([key(0)],))
        reading.start()
        reading.join()
        path = str(tmp_path / "cache" / "v.db")
        code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1])"
        code += "; print(c.execute('SELECT count(*) FROM entries').fetchone()[0]); c.close()"
        asked = [sys.executable, "-c", code, path]
        assert subprocess.run(asked, capture_output=True, check=True).stdout == b"1\n"
        backend.set_many({key(7): b"new"})
        assert subprocess.run(asked, capture_output=True, check=True).stdout == b"2\n"
        backend.close()

    def test_a_disk_that_fails_for_now_leaves_a_sound_file(self, tmp_path: Path) -> None:
        """On a full disk SQLite says `disk I/O error`: a sound cache was taken for damaged, and
        removed.
        """
        backend = small(tmp_path)
        backend.set_many(entries(50))
        backend.close()
        with no_room(), pytest.raises(QlaunchError, match="disk I/O error"):
            small(tmp_path)
        again = small(tmp_path)
        assert again.stats().entries == 50
        again.close()

    def test_a_full_disk_is_emptied_all_the_same(self, tmp_path: Path) -> None:
        """`cache purge` failed where its runbook tells to make room with it."""
        gateway, purging = small(tmp_path), small(tmp_path)
        gateway.set_many(entries(500))
        assert gateway.get_many([key(1)]) != [None]
        with no_room(), pytest.raises(BackendError):
            purging.purge(SPACE)  # of one model they are removed one by one
        assert gateway.stats().entries == 500
        with no_room():
            assert purging.purge() is None
        gateway.follow_path()
        assert gateway.get_many([key(1)]) == [None]
        gateway.set_many(entries(2))
        assert purging.stats().entries == 2
        gateway.close()
        purging.close()

    @pytest.mark.parametrize("left", [".db-wal", ".lock"])
    def test_a_file_that_was_removed_is_made_anew(self, tmp_path: Path, left: str) -> None:
        """Writes went on into the removed file: nothing was kept, and its room not given back."""
        backend = small(tmp_path)
        backend.set_many(entries(1))
        for file in (tmp_path / "cache").iterdir():
            if not file.name.endswith(left):
                file.unlink()
        backend.set_many({key(7): b"new"})
        assert backend.get_many([key(0), key(7)]) == [None, b"new"]
        backend.close()
        again = small(tmp_path)
        assert again.get_many([key(7)]) == [b"new"]
        assert (tmp_path / "cache" / "v.db").stat().st_mode & 0o077 == 0
        again.close()

    def test_a_folder_that_was_removed_is_made_anew(self, tmp_path: Path) -> None:
        """Where somebody cleaned ~/.cache nothing was kept until the gateway's next start."""
        backend = small(tmp_path)
        backend.set_many(entries(1))
        shutil.rmtree(tmp_path / "cache")
        backend.set_many({key(7): b"new"})
        assert backend.get_many([key(0), key(7)]) == [None, b"new"]
        assert (tmp_path / "cache").stat().st_mode & 0o077 == 0
        backend.close()

    @pytest.mark.parametrize("what", ["a text", "a database", "a pipe", "a device", "a link"])
    def test_what_is_no_cache_is_refused_and_left_alone(self, tmp_path: Path, what: str) -> None:
        """A file that is no database was taken for a damaged cache and removed; by root, so was
        /dev/null, and another program's database got our tables."""
        path = tmp_path / "thing"
        text = b'{"text": "a corpus, named by mistake"}\n' * 1000
        if what == "a text":
            path.write_bytes(text)
        elif what == "a database":
            with contextlib.closing(sqlite3.connect(path)) as made, made:
                made.execute("CREATE TABLE theirs (id INTEGER PRIMARY KEY)")
        elif what == "a pipe":
            os.mkfifo(path)
        elif what == "a link":
            (tmp_path / "target").write_bytes(text)
            path.symlink_to(tmp_path / "target")
        else:
            try:
                os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
            except PermissionError:
                pytest.skip("only root makes devices")
        before = path.lstat(), path.read_bytes() if path.is_file() else b""
        with pytest.raises(QlaunchError, match=str(path)) as refused:
            SqliteBackend(path, CacheSettings(url=""))
        assert refused.value.code == "cache_unusable"
        after = path.lstat(), path.read_bytes() if path.is_file() else b""
        assert (after[0].st_ino, after[0].st_mode, after[1]) == (
            before[0].st_ino,
            before[0].st_mode,
            before[1],
        )
        assert {file.name for file in tmp_path.iterdir()} <= {"thing", "target"}

    def test_a_file_that_became_another_meanwhile_is_not_removed(self, tmp_path: Path) -> None:
        backend = small(tmp_path)
        backend.set_many(entries(100))
        backend.close()
        path = tmp_path / "cache" / "v.db"
        again = small(tmp_path)
        text = b"a text of somebody" * 5000
        path.write_bytes(text)
        for _ in range(3):
            with contextlib.suppress(BackendError):
                again.get_many([key(1)])
            with contextlib.suppress(BackendError):
                again.purge()
        again.close()
        assert path.read_bytes()[:1000] == text[:1000]

    def test_a_file_of_a_later_version_is_refused(self, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / "v.db") as made:
            made.execute("PRAGMA user_version = 99")
        made.close()
        with pytest.raises(QlaunchError, match="another version"):
            SqliteBackend(tmp_path / "v.db", CacheSettings(url=""))

    def test_a_writer_that_is_killed_leaves_whole_entries(self, tmp_path: Path) -> None:
        """Three writers at once, killed at any moment; every entry that is there is whole."""
        program = (
            "import sys, os\n"
            "from pathlib import Path\n"
            "from launcher.gateway.backends.sqlite import SqliteBackend\n"
            "from launcher.gateway.backends.backend import CacheSettings, LEAST_BYTES\n"
            "from launcher.gateway.entry import pack\n"
            "b = SqliteBackend(Path(sys.argv[1]), CacheSettings(url='', max_bytes=LEAST_BYTES))\n"
            "n = int(sys.argv[2])\n"
            "print('on', flush=True)\n"
            "while True:\n"
            "    ks = [bytes(16) + (n + i).to_bytes(32, 'big') for i in range(40)]\n"
            "    b.set_many({k: pack(b's' * 32, k, k * 80) for k in ks})\n"
            "    n += 40\n"
        )
        path = tmp_path / "cache" / "v.db"
        for life in range(3):
            writers = [
                subprocess.Popen(
                    [sys.executable, "-c", program, str(path), str(10**6 * (3 * life + n))],
                    stdout=subprocess.PIPE,
                )
                for n in range(3)
            ]
            for writer in writers:
                assert writer.stdout is not None
                assert writer.stdout.readline() == b"on\n"
            reader = small(tmp_path)
            before = reader.stats().entries or 0
            eventually(partial(grown, reader, before))
            for writer in writers:
                writer.kill()
            for writer in writers:
                writer.wait()
                assert writer.stdout is not None
                writer.stdout.close()
            with sqlite3.connect(path) as looked:
                assert looked.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                rows = looked.execute("SELECT key, value FROM entries").fetchall()
            looked.close()
            assert len(rows) > 40
            for k, value in rows:
                assert unpack(b"s" * 32, k, value) == k * 80
            reader.close()

    def test_a_full_disk_keeps_what_is_there(self, tmp_path: Path) -> None:
        backend = small(tmp_path)
        kept = entries(10)
        backend.set_many(kept)
        backend._connection().execute("PRAGMA max_page_count = 1")  # the least: what is used now
        with pytest.raises(BackendError, match="full"):
            backend.set_many({key(n): os.urandom(20_000) for n in range(100, 400)})
        assert backend.get_many(list(kept)) == list(kept.values())
        backend.close()


async def asks_right(bench: Bench, rounds: int = 8) -> None:
    """Requests are answered right whatever the store does."""
    for n in range(rounds):
        texts = ["x", str(n), "x"]
        assert (await bench.ask(texts)).vectors == [truth(text) for text in texts]


def test_a_redis_that_refuses_is_not_quoted_with_the_entry(start_cache: Start) -> None:
    """Keys and vectors, bytes of all kinds, were in the log."""
    server = start_cache("redis", "--maxmemory", "1", "--maxmemory-policy", "noeviction")
    backend = open_backend(CacheSettings(url=server.url))
    with pytest.raises(BackendError) as caught:
        backend.set_many({key(1): b"\x1b[2Jentry"})
    backend.close()
    assert "maxmemory" in str(caught.value)
    assert "entry" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", ["redis", "memcached"])
class TestServers:
    def test_one_that_tells_no_sizes_cannot_be_asked_for_them(
        self, kind: str, start_cache: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`cache stats` ended with a traceback."""
        backend: Any = open_backend(CacheSettings(url=start_cache(kind).url))
        if kind == "redis":
            monkeypatch.setattr(backend._clients, "memories", lambda: [{"maxmemory": 0}])
        else:
            monkeypatch.setattr(backend._client, "stats", lambda: {b"bytes": b"many"})
        with pytest.raises(BackendError):
            backend.stats()
        backend.close()

    def test_killed_and_back_again(self, kind: str, start_cache: Start, caplog: Any) -> None:
        async def work() -> None:
            server = start_cache(kind)
            backend = open_backend(CacheSettings(url=server.url))
            async with Bench(backend) as bench:
                await bench.ask("x")
                await bench.kept()
                assert (await bench.ask("x")).hits == 1
                server.process.kill()
                server.process.wait()
                await asks_right(bench)
                assert bench.store is not None
                assert bench.store.breaker.state == "open"
                start_cache(kind, port=server.port)
                await bench.kept()  # what waits to be written is a hit as well
                while (await bench.ask("x")).hits == 0:
                    await bench.kept()
                    await asyncio.sleep(0.05)
                assert (await bench.ask("x")).vectors == [truth("x")]

        run(work())
        assert f"the cache {kind}://127.0.0.1" in caplog.text
        assert "is bypassed" in caplog.text
        assert "is used again" in caplog.text

    def test_never_there(self, kind: str) -> None:
        async def work() -> None:
            backend = open_backend(CacheSettings(url=f"{kind}://127.0.0.1:{free_port()}"))
            async with Bench(backend) as bench:
                await asks_right(bench)

        run(work())

    def test_stopped_it_costs_its_budget_three_times(self, kind: str, start_cache: Start) -> None:
        """A server that hangs is waited for by three requests, 5 ms each, and by no more."""

        async def work() -> None:
            server = start_cache(kind)
            backend = open_backend(CacheSettings(url=server.url))
            async with Bench(backend, budget_s=0.005) as bench:
                server.process.send_signal(signal.SIGSTOP)
                try:
                    with no_hang():
                        await asks_right(bench, 30)
                    assert bench.store is not None
                    assert bench.store.counts.slow <= 3 + 3  # and the trials after a rest
                    assert bench.store.counts.bypassed == 30
                    assert bench.store.breaker.state != "closed"
                finally:
                    server.process.send_signal(signal.SIGCONT)

        run(work())

    @pytest.mark.parametrize("what", ["garbage", "silence", "close", "half", "errors", "others"])
    def test_something_else_in_its_place(self, kind: str, what: str) -> None:
        async def work(url: str) -> None:
            async with Bench(open_backend(CacheSettings(url=url))) as bench:
                await asks_right(bench, 5)
                await bench.kept()
                assert bench.store is not None
                assert bench.store.counts.written == 0
                assert bench.store.counts.bypassed + bench.store.counts.failed > 0

        with Impostor(what) as port:
            run(work(f"{kind}://127.0.0.1:{port}"))


def test_a_server_that_swaps_entries_is_not_believed(start_cache: Start) -> None:
    """Case 34: it answers well-formed entries of ours, each for another key."""

    async def work() -> None:
        import redis

        server = start_cache("redis")
        backend = open_backend(CacheSettings(url=server.url))
        with redis.Redis(port=server.port) as behind:
            async with Bench(backend) as bench:
                await bench.ask(["a", "b", "c"])
                await bench.kept()
                names: Any = behind.keys("qlaunch:*")
                values: Any = behind.mget(names)
                assert len(names) == 3
                behind.mset(dict(zip(names, [*values[1:], values[0]], strict=True)))
                reply = await bench.ask(["a", "b", "c"])
                assert reply.hits == 0
                assert reply.vectors == [truth(text) for text in "abc"]
                assert bench.store is not None
                assert bench.store.counts.corrupt == 3

    run(work())


def test_a_full_redis_is_read_and_not_written(start_cache: Start, caplog: Any) -> None:
    async def work() -> None:
        server = start_cache("redis", "--maxmemory-policy", "noeviction")
        backend = open_backend(CacheSettings(url=server.url))
        async with Bench(backend) as bench:
            await bench.ask("x")
            await bench.kept()
            import redis

            with redis.Redis(port=server.port) as other:
                other.config_set("maxmemory", 1)
            for n in range(6):
                reply = await bench.ask(["x", f"more{n}"])
                assert reply.vectors == [truth("x"), truth(f"more{n}")]
                assert reply.hits == 1
                await bench.kept()
            assert bench.store is not None
            assert bench.store.breaker.state == "closed"
            assert bench.store.write_breaker.state != "closed"

    run(work())
    assert "is not written to" in caplog.text


def test_an_entry_too_large_for_memcached_names_its_option(start_cache: Start) -> None:
    backend = open_backend(CacheSettings(url=start_cache("memcached").url))
    with pytest.raises(BackendError, match=r"^an entry of 2000000 bytes .* a larger -I$"):
        backend.set_many({key(1): bytes(2_000_000), key(2): b"small"})
    backend.set_many({key(3): b"small"})
    assert backend.get_many([key(1), key(3)]) == [None, b"small"]
    backend.close()


def test_reads_that_are_too_slow_keep_no_vector_from_being_written() -> None:
    """On a busy machine SQLite answers after a request went on; writes were dropped then, too."""

    class Slow(Memory):
        def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
            time.sleep(0.1)
            return super().get_many(keys)

    async def work() -> None:
        store = Store(Slow(), SECRET, budget_s=0.001)
        keys = [bytes([n]) * KEY_BYTES for n in range(5)]
        for key in keys:
            assert await store.read([key]) == {}
        assert store.breaker.state == "open"
        store.keep(dict.fromkeys(keys, bytes(16)))
        await store.flush()
        assert (store.counts.written, store.counts.dropped) == (5, 0)
        await store.close()

    run(work())


def test_redis_with_a_password(start_cache: Start, tmp_path: Path) -> None:
    server = start_cache("redis", "--requirepass", "long and secret")
    file = tmp_path / "password"
    file.write_text("long and secret\n")
    backend = open_backend(CacheSettings(url=server.url, password_file=file))
    backend.set_many(entries(3))
    assert backend.stats().entries == 3
    backend.close()
    without = open_backend(CacheSettings(url=server.url))
    with pytest.raises(BackendError, match="Authentication"):
        without.get_many([key(1)])
    without.close()


def test_a_changed_password_of_redis_is_read_without_a_restart(
    start_cache: Start, tmp_path: Path
) -> None:
    """It was read once: after a rotation the gateway went past its cache until its next start."""
    import redis

    server = start_cache("redis", "--requirepass", "the first")
    file = tmp_path / "password"
    file.write_text("the first")
    backend = open_backend(CacheSettings(url=server.url, password_file=file))
    backend.set_many({key(1): b"one"})
    with redis.Redis(port=server.port, password="the first") as admin:
        admin.config_set("requirepass", "another: one")
        backend.interrupt()
        with pytest.raises(BackendError, match="Authentication"):
            backend.get_many([key(1)])
        file.unlink()
        with pytest.raises(BackendError, match="cannot read the password"):
            backend.get_many([key(1)])
        file.write_text("another: one\n")
        assert backend.get_many([key(1)]) == [b"one"]
    backend.close()


@pytest.mark.parametrize("place", ["user:pass%2Fword@", "user@", "?username=user"])
def test_a_user_of_redis_comes_from_the_url_and_its_password_from_either(
    place: str, start_cache: Start, tmp_path: Path
) -> None:
    server = start_cache("redis", "--user", "user", "on", ">pass/word", "~*", "+@all")
    file = tmp_path / "password"
    file.write_text("pass/word")
    user = place if place.endswith("@") else ""
    query = place if place.startswith("?") else ""
    url = f"redis://{user}127.0.0.1:{server.port}/0{query}"
    given = None if ":" in place else file
    backend = open_backend(CacheSettings(url=url, password_file=given))
    backend.set_many({key(1): b"one"})
    assert backend.get_many([key(1)]) == [b"one"]
    backend.close()


def test_redis_keeps_other_keys_when_ours_are_purged(start_cache: Start) -> None:
    import redis

    server = start_cache("redis")
    backend = open_backend(CacheSettings(url=server.url))
    with redis.Redis(port=server.port) as other:
        other.set("mine", "1")
        backend.set_many(entries(2500))
        assert backend.purge() == 2500
        assert other.get("mine") == b"1"
    backend.close()


def test_an_entry_of_redis_ends_with_its_time(start_cache: Start) -> None:
    import redis

    server = start_cache("redis")
    backend = open_backend(CacheSettings(url=server.url, ttl_s=1000))
    backend.set_many(entries(1))
    with redis.Redis(port=server.port) as other:
        left: Any = other.ttl(b"qlaunch:v1:" + key(0))
        assert 0 < left <= 1000
    backend.close()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1", "redis://127.0.0.1:99999", "memcached://h:port", "mysql://h/d"]
)
def test_a_url_that_names_no_store_is_refused(url: str) -> None:
    with pytest.raises(QlaunchError) as caught:
        open_backend(CacheSettings(url=url))
    assert caught.value.code == "bad_cache"
    assert caught.value.exit_code == 2


def test_no_password_is_in_a_name() -> None:
    backend = open_backend(CacheSettings(url="redis://user:geheim@127.0.0.1:1/2"))
    assert backend.name == "redis://127.0.0.1:1/2"
    backend.close()


def test_a_cache_on_another_machine_comes_with_a_caution() -> None:
    assert caution("/tmp/x.db") is None
    assert caution("redis://127.0.0.1:6379") is None
    assert caution("rediss://cache.example") is None
    text = caution("redis://:geheim@cache.example:6379/0") or ""
    assert "without encryption" in text
    assert "geheim" not in text


class Impostor:
    """Something that listens where a cache server should: `with Impostor("garbage") as port`."""

    def __init__(self, what: str) -> None:
        held = threading.Event()
        self._held = held

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                self.request.settimeout(30)
                try:
                    while self.request.recv(65536):
                        if what == "silence":
                            held.wait(PATIENCE_S)
                        elif what == "close":
                            return
                        elif what == "garbage":
                            self.request.sendall(os.urandom(3000) + b"\r\n")
                        elif what == "half":
                            self.request.sendall(b"$1000\r\nabc")
                        elif what == "errors":
                            self.request.sendall(b"-ERR no\r\nERROR\r\n")
                        else:
                            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                except OSError:
                    pass

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *_: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> int:
        self._thread.start()
        port: int = self._server.server_address[1]
        return port

    def __exit__(self, *_: object) -> None:
        self._held.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_a_cache_in_a_folder_that_is_not_there_is_cautioned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path / "home"))
    assert str(tmp_path / "mnt") in (caution(str(tmp_path / "mnt" / "v.db")) or "")
    assert caution(str(tmp_path / "v.db")) is None
    assert caution(str(tmp_path / "home" / "cache" / "gateway" / "v.db")) is None, "our own"
