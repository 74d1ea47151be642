"""Sentinels and clusters, real ones: a failover is a bypass and then none, never a wrong vector."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from launcher.errors import QlaunchError
from launcher.gateway.backends.backend import Backend, BackendError, CacheSettings
from launcher.gateway.backends.opening import caution, open_backend
from launcher.gateway.store import Store
from tests.gateway.conftest import CacheServer, Start, answers, free_port, port_with_bus
from tests.gateway.harness import SECRET, Bench, run
from tests.gateway.scripted_server import truth
from tests.gateway.test_backends import OTHER, entries, key
from tests.patience import PATIENCE_S, eventually

MASTER = "mymaster"
AT_ONCE_MS = "300"
"""After so long without an answer a server is taken for dead."""


class Watched:
    """A master with a replica, and one sentinel whose word is enough."""

    def __init__(self, start: Start, folder: Path, *options: str) -> None:
        self.servers = [start("redis", *options)]
        first = self.servers[0].port
        self.servers.append(start("redis", *options, "--replicaof", f"127.0.0.1 {first}"))
        self.sentinel_port = free_port()
        config = folder / "sentinel.conf"
        config.write_text(
            f"port {self.sentinel_port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {first} 1\n"
            f"sentinel down-after-milliseconds {MASTER} {AT_ONCE_MS}\n"
            f"sentinel failover-timeout {MASTER} 2000\n"
        )
        self.process = subprocess.Popen(
            ["redis-server", str(config), "--sentinel"], stdout=subprocess.DEVNULL
        )
        self.url = f"redis+sentinel://127.0.0.1:{self.sentinel_port}/{MASTER}"
        eventually(lambda: answers(self.sentinel_port))
        with self.sentinel() as asked:
            eventually(lambda: len(asked.sentinel_slaves(MASTER)) == 1)
        self.replicated()

    def sentinel(self) -> Any:
        return redis.Redis(port=self.sentinel_port)

    def replicated(self) -> None:
        """Wait until the replica follows its master."""
        with redis.Redis(port=self.servers[1].port) as replica:
            told: Callable[[], Any] = lambda: replica.info("replication")  # noqa: E731
            eventually(lambda: told().get("master_link_status") == "up")

    def master(self) -> int:
        with self.sentinel() as asked:
            return int(asked.sentinel_get_master_addr_by_name(MASTER)[1])

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


class Cluster:
    """Three masters, the first with a replica."""

    def __init__(self, start: Start, folder: Path) -> None:
        self.servers = [self._node(start, folder, n) for n in range(4)]
        ports = [str(server.port) for server in self.servers]
        places = [f"127.0.0.1:{port}" for port in ports]
        self._cli("--cluster", "create", *places[:3], "--cluster-yes")
        eventually(lambda: self.agreed(3))
        self._cli("--cluster", "add-node", places[3], places[0], "--cluster-slave")
        eventually(lambda: self.agreed(4))
        self.url = f"redis+cluster://{places[1]},{places[2]}"

    @staticmethod
    def _node(start: Start, folder: Path, number: int) -> CacheServer:
        own = folder / f"node{number}"
        own.mkdir()
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "600", "--dir", str(own)]
        return start("redis", *options)

    def _cli(self, *words: str) -> None:
        subprocess.run(["redis-cli", *words], check=True, capture_output=True, timeout=PATIENCE_S)

    def agreed(self, nodes: int) -> bool:
        """Whether so many know each other, and all slots are served."""
        for server in self.servers[:nodes]:
            with redis.Redis(port=server.port) as node:
                info: Any = node.cluster("INFO")
                known = int(info["cluster_known_nodes"]) == nodes
                if not known or info["cluster_state"] != "ok":
                    return False
        return True

    def replicated(self) -> CacheServer:
        """The master that has a replica, once that follows it."""
        with redis.Redis(port=self.servers[3].port) as replica:
            told: Callable[[], Any] = lambda: replica.info("replication")  # noqa: E731
            eventually(lambda: told().get("master_link_status") == "up")
            port = int(told()["master_port"])
        return next(server for server in self.servers if server.port == port)

    def close(self) -> None:
        """Its servers are the fixture's."""


Site = Watched | Cluster


@pytest.fixture(params=["sentinel", "cluster"])
def site(request: pytest.FixtureRequest, tmp_path: Path, start_cache: Start) -> Any:
    made: Site = (
        Watched(start_cache, tmp_path)
        if request.param == "sentinel"
        else Cluster(start_cache, tmp_path)
    )
    yield made
    made.close()


def opened(site: Site) -> Backend:
    return open_backend(CacheSettings(url=site.url))


def test_what_went_in_comes_out_and_ours_alone_are_purged(site: Site) -> None:
    with contextlib.closing(opened(site)) as backend:
        kept, others = entries(1200), entries(50, space=OTHER)
        backend.set_many({**kept, **others})
        asked = [*reversed(kept), key(5000), key(7)]
        assert backend.get_many(asked) == [*reversed(kept.values()), None, kept[key(7)]]
        stats = backend.stats()
        assert stats.entries == 1250
        assert (stats.bytes or 0) > 0
        assert backend.purge(OTHER) == 50
        assert backend.get_many(list(others)) == [None] * 50
        assert backend.purge() == 1200
        assert backend.stats().entries == 0


def victim_of(site: Site) -> CacheServer:
    """The master that is to fail, with all that it has replicated."""
    if isinstance(site, Cluster):
        return site.replicated()
    return next(server for server in site.servers if server.port == site.master())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_failover_under_load_costs_hits_and_nothing_else(site: Site, how: int) -> None:
    """The master dies, or hangs: requests go past the cache, until another one is master."""
    texts = [f"text {n}" for n in range(40)]

    async def ask(bench: Bench, stop: asyncio.Event) -> int:
        count = 0
        while not stop.is_set():
            asked = [texts[(count + step) % len(texts)] for step in range(3)]
            reply = await bench.ask(asked)
            assert reply.status == 200
            assert reply.vectors == [truth(text) for text in asked]
            count += 1
            await asyncio.sleep(0.01)
        return count

    async def hits_again(bench: Bench) -> None:
        """New texts are kept, and read from the store: a master takes them."""
        assert bench.store is not None
        for number in range(10_000):
            fresh = [f"after {number} {n}" for n in range(20)]
            await bench.ask(fresh)
            await bench.kept()
            if (await bench.ask(fresh)).hits == len(fresh):
                return
            await asyncio.sleep(0.05)

    async def work(backend: Backend, victim: CacheServer) -> None:
        async with Bench(backend) as bench:
            assert bench.store is not None
            await bench.ask(texts)
            await bench.kept()
            assert (await bench.ask(texts)).hits == len(texts)
            stop = asyncio.Event()
            load = [asyncio.create_task(ask(bench, stop)) for _ in range(4)]
            victim.process.send_signal(how)
            await hits_again(bench)
            stop.set()
            assert min(await asyncio.gather(*load)) > 0
            assert bench.store.counts.corrupt == 0
            assert bench.store.counts.failed + bench.store.counts.slow > 0

    backend = opened(site)
    victim = victim_of(site)
    try:
        run(work(backend, victim))
    finally:
        victim.process.send_signal(signal.SIGCONT)


def test_sentinels_that_are_gone_are_a_bypass(tmp_path: Path) -> None:
    url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{free_port()}/{MASTER}"

    async def work() -> None:
        async with Bench(open_backend(CacheSettings(url=url))) as bench:
            for text in ("one", "two"):
                assert (await bench.ask(text)).vectors == [truth(text)]

    run(work())


def test_a_cluster_that_comes_later_is_used(tmp_path: Path, start_cache: Start) -> None:
    """Its client asks as soon as it is made: a gateway that started before it must not give up."""
    port = port_with_bus()
    backend = open_backend(CacheSettings(url=f"redis+cluster://127.0.0.1:{port}"))
    with contextlib.closing(backend):
        with pytest.raises(BackendError):
            backend.get_many([key(1)])
        folder = tmp_path / "late"
        folder.mkdir()
        start_cache("redis", "--cluster-enabled", "yes", "--dir", str(folder), port=port)
        with redis.Redis(port=port) as node:
            node.cluster("ADDSLOTSRANGE", 0, 16383)
            eventually(lambda: kept(backend, entries(3)))


def kept(backend: Backend, wanted: dict[bytes, bytes]) -> bool:
    try:
        backend.set_many(wanted)
    except BackendError:
        return False
    return backend.get_many(list(wanted)) == list(wanted.values())


def test_a_master_with_a_password(tmp_path: Path, start_cache: Start) -> None:
    server = start_cache("redis", "--requirepass", "long and secret")
    sentinel = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {sentinel}\nbind 127.0.0.1\ndir {tmp_path}\n"
        f"sentinel monitor {MASTER} 127.0.0.1 {server.port} 1\n"
        f'sentinel auth-pass {MASTER} "long and secret"\n'
    )
    words = ["redis-server", str(config), "--sentinel"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        eventually(lambda: answers(sentinel))
        file = tmp_path / "password"
        file.write_text("long and secret\n")
        url = f"redis+sentinel://127.0.0.1:{sentinel}/{MASTER}"
        for settings, fine in (
            (CacheSettings(url=url, password_file=file), True),
            (CacheSettings(url=url), False),
        ):
            with contextlib.closing(open_backend(settings)) as backend:
                assert kept(backend, entries(2)) == fine
        process.kill()


def test_sentinels_with_a_password_of_their_own(tmp_path: Path, start_cache: Start) -> None:
    """They were asked without one, so that the cache was bypassed for ever."""
    server = start_cache("redis", "--requirepass", "of the master")
    sentinel = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {sentinel}\nbind 127.0.0.1\ndir {tmp_path}\n"
        'requirepass "of the sentinels"\n'
        f"sentinel monitor {MASTER} 127.0.0.1 {server.port} 1\n"
        f'sentinel auth-pass {MASTER} "of the master"\n'
    )
    words = ["redis-server", str(config), "--sentinel"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        eventually(lambda: answers(sentinel))
        master, theirs, wrong = (tmp_path / name for name in ("master", "sentinels", "wrong"))
        master.write_text("of the master\n")
        theirs.write_text("of the sentinels\n")
        wrong.write_text("of nobody\n")
        url = f"redis+sentinel://127.0.0.1:{sentinel}/{MASTER}"
        for asked, fine in ((theirs, True), (None, False), (wrong, False), (master, False)):
            settings = CacheSettings(url=url, password_file=master, sentinel_password_file=asked)
            with contextlib.closing(open_backend(settings)) as backend:
                assert kept(backend, entries(2)) == fine
        process.kill()


@pytest.mark.parametrize("name", ["password_file", "sentinel_password_file"])
@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "No such file"), (b" \n", "is empty"), (b"\xff\xfe", "not UTF-8")],
)
def test_a_password_that_cannot_be_read_is_refused(
    tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    """An empty file was an empty password, and the cache bypassed for ever."""
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    settings: dict[str, Any] = {"url": "redis+sentinel://127.0.0.1:1/m", name: file}
    with pytest.raises(QlaunchError, match=says) as refused:
        open_backend(CacheSettings(**settings))
    assert (refused.value.code, refused.value.exit_code) == ("bad_cache", 2)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://127.0.0.1:1/0", "sentinel_password_file"),
        ("redis+cluster://127.0.0.1:1", "sentinel_password_file"),
        ("memcached://127.0.0.1:1", "password_file"),
        ("{folder}/v.db", "password_file"),
        ("sqlite:{folder}/v.db", "sentinel_password_file"),
    ],
)
def test_a_password_that_nobody_would_be_told_is_refused(
    tmp_path: Path, url: str, name: str
) -> None:
    """Before a file it was left out without a word."""
    file = tmp_path / "password"
    file.write_text("secret\n")
    settings: dict[str, Any] = {"url": url.format(folder=tmp_path), name: file}
    with pytest.raises(QlaunchError, match="password is for") as refused:
        open_backend(CacheSettings(**settings))
    assert (refused.value.code, refused.value.exit_code) == ("bad_cache", 2)
    assert not (tmp_path / "v.db").exists()


@pytest.mark.parametrize(
    "url",
    ["redis+sentinel://h", "redis+cluster://h/1", "redis+cluster://h:0", "redis+other://h/m"],
)
def test_an_address_that_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(QlaunchError) as refused:
        open_backend(CacheSettings(url=url))
    assert refused.value.code == "bad_cache"
    assert refused.value.exit_code == 2


def test_a_caution_for_any_of_several_hosts() -> None:
    assert caution("redis+cluster://127.0.0.1:1,[::1]:2") is None
    assert caution("rediss+cluster://cache.example") is None
    text = caution("redis+sentinel://:geheim@127.0.0.1,cache.example/m") or ""
    assert "without encryption" in text
    assert "geheim" not in text


def test_a_slow_failover_holds_no_request(site: Site) -> None:
    """A hanging master costs each request the budget at most, and soon nothing."""
    backend = opened(site)

    async def work() -> None:
        store = Store(backend, SECRET, budget_s=0.005, memory_bytes=0)
        victim = victim_of(site)
        victim.process.send_signal(signal.SIGSTOP)
        try:
            keys: Sequence[bytes] = [key(n) for n in range(8)]
            for _ in range(10):
                assert await store.read(keys) == {}
            assert store.breaker.state == "open"
        finally:
            victim.process.send_signal(signal.SIGCONT)
        await store.close()

    run(work())
