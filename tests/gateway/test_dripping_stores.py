"""A cache server whose answer drips in, byte by byte, and never ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

import pytest

from launcher.gateway import store
from launcher.gateway.backends.backend import Backend, BackendError, CacheSettings
from launcher.gateway.backends.opening import open_backend
from tests.gateway.conftest import Start, free_port
from tests.gateway.harness import Bench, run
from tests.gateway.scripted_server import truth
from tests.gateway.test_backends import key
from tests.patience import eventually

BETWEEN_S = 0.02
"""Two bytes; a client waits for the next one for longer."""


class Dripping:
    """Answers everything with a line without an end: `with Dripping() as port`."""

    def __enter__(self) -> int:
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", free_port()))
        threading.Thread(target=self._accept, daemon=True).start()
        port: int = self._listener.getsockname()[1]
        return port

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.leave()

    def leave(self) -> None:
        """Listen no more; the connections that there are drip on."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._drip, args=(connection,), daemon=True).start()

    def _drip(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.recv(1)
            while not self._ended.wait(BETWEEN_S):
                connection.sendall(b"+")


@pytest.mark.parametrize("kind", ["redis", "memcached"])
def test_a_store_whose_answers_drip_in_is_used_again_when_it_is_well(
    kind: str, start_cache: Start
) -> None:
    """Each byte came in time, so both reading threads were kept for good, and the writing one."""
    dripping = Dripping()

    async def work(port: int) -> None:
        backend = open_backend(CacheSettings(url=f"{kind}://127.0.0.1:{port}"))
        async with Bench(backend, budget_s=0.005) as bench:
            assert bench.store is not None
            while bench.store.counts.slow < 3:
                assert (await bench.ask(["x", "y"])).vectors == [truth("x"), truth("y")]
            dripping.leave()
            start_cache(kind, port=port)
            while not (await bench.ask("x")).hits or not bench.store.counts.written:
                await bench.kept()
                await asyncio.sleep(0.05)
            assert (await bench.ask("x")).vectors == [truth("x")]

    with pytest.MonkeyPatch.context() as patch, dripping as port:
        patch.setattr(store, "WRITE_S", 1.0)
        run(work(port))


def _kept(backend: Backend, entries: dict[bytes, bytes]) -> bool:
    """A cluster takes a moment until it takes entries."""
    try:
        backend.set_many(entries)
    except BackendError:
        return False
    return True


@pytest.mark.parametrize("kind", ["redis", "memcached", "redis+cluster"])
def test_after_an_interruption_a_store_is_asked_by_new_connections(
    kind: str, start_cache: Start
) -> None:
    cluster = ("--cluster-enabled", "yes") if kind.endswith("cluster") else ()
    server = start_cache(kind.partition("+")[0], *cluster)
    if cluster:
        import redis

        with redis.Redis(port=server.port) as node:
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    backend = open_backend(CacheSettings(url=f"{kind}://127.0.0.1:{server.port}"))
    try:
        backend.interrupt()  # nothing is connected yet
        eventually(lambda: _kept(backend, {key(1): b"one"}))
        for _ in range(3):
            backend.interrupt()
            assert backend.get_many([key(1)]) == [b"one"]
    finally:
        backend.close()
