"""A gateway in this process before a scripted server, and clients of it."""

from __future__ import annotations

import asyncio
import base64
import threading
from array import array
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import aiohttp
from aiohttp.test_utils import TestServer

from launcher.gateway.access import Keys, OneKey
from launcher.gateway.backends.backend import Backend, BackendError, Stats
from launcher.gateway.calls import Caller
from launcher.gateway.cutting import Cuts
from launcher.gateway.identity import Identity
from launcher.gateway.inputs import Checkpoint, InputRules
from launcher.gateway.pool import Group, Limits
from launcher.gateway.replica import Replica, Seen
from launcher.gateway.resolver import Resolver
from launcher.gateway.server import Gateway, ServerSettings
from launcher.gateway.store import Store
from launcher.gateway.tracing import Tracing
from tests.gateway.scripted_server import ScriptedServer
from tests.patience import PATIENCE_S

SECRET = b"s" * 32
LIMITS = Limits(timeout_s=PATIENCE_S)
SETTINGS = ServerSettings()
T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, within patience."""
    return asyncio.run(asyncio.wait_for(work, PATIENCE_S))


async def until(check: Callable[[], bool]) -> None:
    """Let others run until it is so; `run` ends what never happens."""
    for _ in iter(check, True):
        await asyncio.sleep(0.001)


class Memory:
    """The plain dictionary that other stores are held to."""

    name = "memory"

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes] = {}
        self.fail = False

    def candidates(self, keys: Sequence[bytes]) -> Sequence[bytes]:
        """All."""
        return keys

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Entries in order."""
        if self.fail:
            raise BackendError("told to fail")
        return [self.entries.get(key) for key in keys]

    def set_many(self, entries: Mapping[bytes, bytes]) -> None:
        """Keep entries."""
        if self.fail:
            raise BackendError("told to fail")
        self.entries.update(entries)

    def purge(self, space: bytes | None = None) -> int | None:
        """Remove."""
        gone = [key for key in self.entries if space is None or key.startswith(space)]
        for key in gone:
            del self.entries[key]
        return len(gone)

    def stats(self) -> Stats:
        """Counts."""
        return Stats(entries=len(self.entries), bytes=None, max_bytes=None)

    def interrupt(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


@dataclass
class FixedSource:
    """A server that is known once and for all, or as the test says."""

    url: str | None
    model: str = "m"
    name: str = "fixed"
    identity: Identity | None = field(
        default_factory=lambda: Identity(model="m", dimensions=16, normalize=True)
    )
    checkpoint: Checkpoint | None = None
    cuts: Cuts | None = None
    key: str | None = None
    guarded: bool = False
    whole: bool = False
    suspected: int = 0

    def look(self) -> Seen:
        """What the test says."""
        return Seen(
            url=self.url,
            key=self.key,
            identity=self.identity,
            checkpoint=self.checkpoint,
            cuts=self.cuts,
            guarded=self.guarded,
            whole=self.whole,
        )

    def want(self) -> None:
        """Nothing."""

    def suspect(self) -> None:
        """Count."""
        self.suspected += 1


@dataclass
class Reply:
    """An answer of the gateway."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def vectors(self) -> list[list[float]]:
        """In the order of the answer; its indices must be 0…N-1."""
        assert self.status == 200, self.body
        assert [item["index"] for item in self.body["data"]] == list(range(len(self.body["data"])))
        return [numbers(item["embedding"]) for item in self.body["data"]]

    @property
    def hits(self) -> int:
        """As the header says."""
        return int(self.headers["X-Cache-Hits"])


def numbers(value: Any) -> list[float]:
    """A vector in either encoding."""
    if isinstance(value, str):
        return array("f", base64.b64decode(value)).tolist()
    return [float(one) for one in value]


class Bench:
    """A gateway, the servers behind it and a client: `async with Bench(backend) as bench`."""

    def __init__(
        self,
        backend: Backend | None,
        *,
        servers: int = 1,
        limits: Limits = LIMITS,
        settings: ServerSettings = SETTINGS,
        budget_s: float = PATIENCE_S,
        keys: Keys | OneKey | None = None,
        dtype: Any = "float32",
        memory_bytes: int = 0,
        checkpoint: Checkpoint | None = None,
        rules: InputRules | None = None,
        tracing: Tracing | None = None,
        cuts: Cuts | None = None,
    ) -> None:
        self.backend = backend
        self._checkpoint, self._rules, self._tracing = checkpoint, rules, tracing
        self._cuts = cuts
        self.servers = [ScriptedServer() for _ in range(servers)]
        self.sources: list[FixedSource] = []
        self._limits, self._settings, self._budget_s = limits, settings, budget_s
        self._keys, self._dtype, self._memory_bytes = keys, dtype, memory_bytes
        self._stack = AsyncExitStack()

    @property
    def server(self) -> ScriptedServer:
        """The first one."""
        return self.servers[0]

    async def __aenter__(self) -> Self:
        for server in self.servers:
            await self._stack.enter_async_context(server.running())
        self.sources = [
            FixedSource(server.url, name=f"server{n}", checkpoint=self._checkpoint, cuts=self._cuts)
            for n, server in enumerate(self.servers)
        ]
        traced = [] if self._tracing is None else [self._tracing.calls()]
        session = await self._stack.enter_async_context(aiohttp.ClientSession(trace_configs=traced))
        self.store = None
        if self.backend is not None:
            self.store = Store(
                self.backend,
                SECRET,
                dtype=self._dtype,
                budget_s=self._budget_s,
                memory_bytes=self._memory_bytes,
            )
        self.group = Group("m", [Replica(s) for s in self.sources], SECRET, self._limits)
        caller = Caller(session, traced=self._tracing is not None)
        self._stack.push_async_callback(caller.close)
        self.resolver = Resolver(caller, SECRET, self.store, self._rules)
        self.gateway = Gateway(
            {"m": self.group},
            self.resolver,
            self.store,
            self._keys,
            self._settings,
            self._tracing,
        )
        front = TestServer(self.gateway.application())
        await front.start_server()
        self._stack.push_async_callback(front.close)
        self.url = str(front.make_url("/"))
        self._session = session
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.resolver.drain()
        if self.store is not None:
            await self.store.close()
        await self._stack.aclose()

    async def ask(
        self, value: Any, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> Reply:
        """POST /v1/embeddings."""
        return await self.post({"model": "m", "input": value, **fields}, headers)

    async def post(self, body: Any, headers: Mapping[str, str] | None = None) -> Reply:
        """POST /v1/embeddings of any body."""
        data = {"data": body} if isinstance(body, bytes) else {"json": body}
        given = {"Content-Type": "application/json", **(headers or {})}
        async with self._session.post(
            f"{self.url}v1/embeddings", headers=given, **data
        ) as response:
            return Reply(response.status, response.headers, await response.json())

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, str]:
        """GET any path."""
        async with self._session.get(f"{self.url}{path}", headers=headers) as response:
            return response.status, await response.text()

    async def kept(self) -> None:
        """Wait until everything to be kept is."""
        assert self.store is not None
        await self.resolver.drain()
        await self.store.flush()


class Running:
    """A gateway in a thread of its own, before a server that answers right."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with self.bench:
            self._ready.set()
            await self._stop.wait()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE_S)
