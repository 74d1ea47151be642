"""One gateway from its start to its end: servers found, requests answered, a signal obeyed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from launcher.errors import ExitCode, QlaunchError
from launcher.gateway import malformed
from launcher.gateway.access import Keys, OneKey
from launcher.gateway.backends.backend import CacheSettings
from launcher.gateway.backends.opening import caution, open_backend
from launcher.gateway.calls import IDLE_S, Caller
from launcher.gateway.connections import Connection
from launcher.gateway.ending import Ending
from launcher.gateway.entry import Dtype
from launcher.gateway.identity import Identity
from launcher.gateway.inputs import Checkpoint, InputRules
from launcher.gateway.pool import Group, Limits
from launcher.gateway.recent import MEMORY_BYTES
from launcher.gateway.replica import Replica, Source
from launcher.gateway.resolver import Resolver
from launcher.gateway.server import Gateway, ServerSettings
from launcher.gateway.store import BUDGET_S, Store
from launcher.gateway.tls import Certificate
from launcher.gateway.tracing import Tracing, tracing
from launcher.gateway.url_source import Listed, NoListError, Probes, UrlSource, served_models

if TYPE_CHECKING:
    import aiohttp

MOST_MODELS: Final = 8
"""Of a server that is given without a model's name: each of them is probed."""
_LOOK_S: Final = 1.0
_BACKLOG: Final = 128
_LOG: Final = logging.getLogger("qlaunch.gateway")


class UrlGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Servers known by URL, which are replicas of each other."""

    name: str | None
    """What clients call the model; None: as the server does, and all of its models."""
    urls: tuple[str, ...]
    """`http://host:port/v1`, without a slash at the end."""
    key: str | None = None
    revision: str = ""


class ServiceGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Servers that somebody else knows, which are replicas of each other."""

    name: str
    sources: tuple[Source, ...]
    limits: Limits
    aliases: tuple[str, ...] = ()
    """Further names, where nothing else has them."""


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one gateway."""

    host: str
    port: int
    """0: a free one."""
    services: tuple[ServiceGroup, ...] = ()
    urls: tuple[UrlGroup, ...] = ()
    cache: CacheSettings | None = None
    dtype: Dtype = "float32"
    budget_s: float = BUDGET_S
    memory_bytes: int = MEMORY_BYTES
    """Of the vectors used last."""
    secret: bytes = b""
    keys_file: Path | None = None
    key: str | None = None
    """The one key, where it comes from no file."""
    tls: tuple[Path, Path] | None = None
    """Certificate and key, PEM."""
    limits: Limits = Limits()
    """Of servers known by URL."""
    checkpoints: Mapping[str, Checkpoint] = {}
    """Of models of servers known by URL, by what clients call them."""
    inputs: InputRules = InputRules()
    server: ServerSettings = ServerSettings()
    drain_s: float = 30.0
    follow: Callable[[Mapping[str, Group]], Coroutine[None, None, None]] | None = None
    """Runs beside the requests and changes the servers of `services` by name; None: they stay."""
    otlp: str | None = None
    """OpenTelemetry's collector that spans are sent to, `http://host:4318`; None: no spans."""


def serve(settings: GatewaySettings, announce: Callable[[str], None]) -> None:
    """Answer requests until SIGTERM, SIGINT or SIGHUP, then finish those under way.

    Args:
        settings: of this gateway.
        announce: told the endpoint when it can be asked.

    Raises:
        QlaunchError: `port_taken` (exit 9), `bad_address`, `bad_tls`, `extra_missing` (exit 2), and
            what the cache and the files of keys refuse.
    """
    with (
        tracing(settings.otlp) as spans,
        asyncio.Runner(loop_factory=_fast_loop()) as runner,
    ):
        runner.run(_serve(settings, announce, spans))


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed: it takes a third less time for a request; else asyncio's."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(
    settings: GatewaySettings, announce: Callable[[str], None], spans: Tracing | None
) -> None:
    import aiohttp

    loop = asyncio.get_running_loop()
    ending = Ending()
    ending.on_signals(loop)
    async with (
        _store(settings) as store,
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S),
            trace_configs=[] if spans is None else [spans.calls()],
        ) as session,
    ):
        caller = Caller(session, traced=spans is not None)
        resolver = Resolver(caller, settings.secret, store, settings.inputs)
        groups = {
            one.name: Group(
                one.name, [Replica(source) for source in one.sources], settings.secret, one.limits
            )
            for one in settings.services
        }
        for one in settings.services:
            for alias in one.aliases:
                groups.setdefault(alias, groups[one.name])
        for target in settings.urls:
            if target.name is not None:  # its server may come later
                groups[target.name] = Group(target.name, [], settings.secret, settings.limits)
        gateway = Gateway(groups, resolver, store, _keys(settings), settings.server, spans)
        gateway.unlisted |= {one.urls for one in settings.urls if one.name is None}
        watchers = [
            asyncio.create_task(_Watcher(settings, gateway, session, store).follow(one))
            for one in settings.urls
        ]
        if settings.follow is not None:
            watchers.append(asyncio.create_task(settings.follow(groups)))
        try:
            async with _listening(gateway, settings, ending) as endpoint:
                announce(endpoint)
                await ending.asked.wait()
                over = loop.time() + settings.drain_s
                gateway.draining = True
                _LOG.info("draining: no new connections; requests under way are finished")
        finally:
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)
        await ending.wait_for(resolver.drain(), over - loop.time())
        await caller.close()


def _keys(settings: GatewaySettings) -> Keys | OneKey | None:
    if settings.key is not None:
        return OneKey(settings.key)
    return None if settings.keys_file is None else Keys(settings.keys_file)


@contextlib.asynccontextmanager
async def _store(settings: GatewaySettings) -> AsyncIterator[Store | None]:
    if settings.cache is None:
        yield None
        return
    warning = caution(settings.cache.url)
    if warning is not None:
        _LOG.warning("%s", warning)
    store = Store(
        open_backend(settings.cache),
        settings.secret,
        dtype=settings.dtype,
        budget_s=settings.budget_s,
        memory_bytes=settings.memory_bytes,
    )
    try:
        yield store
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def _listening(
    gateway: Gateway, settings: GatewaySettings, ending: Ending
) -> AsyncIterator[str]:
    """Listen; at the end, stop listening and finish what is under way."""
    from aiohttp import web

    tls = None if settings.tls is None else Certificate(*settings.tls)
    beside = [] if tls is None else [asyncio.create_task(tls.follow())]
    runner = web.AppRunner(
        gateway.application(),
        access_log=None,
        logger=_http_log(),
        shutdown_timeout=settings.drain_s,
    )
    await runner.setup()
    try:
        handler = runner.server
        assert handler is not None, "it is made by `setup`"
        header_s, take_s = settings.server.header_s, settings.server.take_s
        try:
            server = await asyncio.get_running_loop().create_server(
                lambda: Connection(malformed.protocol(handler), header_s, take_s),
                settings.host,
                settings.port,
                ssl=None if tls is None else tls.context,
                ssl_handshake_timeout=None if tls is None else header_s,
                backlog=_BACKLOG,
            )
        except OSError as error:
            raise _unbindable(settings, error) from error
        port = server.sockets[0].getsockname()[1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        try:
            yield f"{'https' if tls else 'http'}://{host}:{port}/v1"
        finally:
            server.close()
            over = ending.enforce(handler, gateway.under_way, settings.drain_s)
            beside.append(asyncio.create_task(over))
    finally:
        await runner.cleanup()
        for task in beside:
            task.cancel()


def _http_log() -> logging.Logger:
    """For what is no HTTP: that it came, and nothing of it, which may be a key or a text."""
    log = _LOG.getChild("http")
    log.addFilter(_without_trace)
    return log


def _without_trace(record: logging.LogRecord) -> bool:
    record.exc_info = record.exc_text = None
    return True


def _unbindable(settings: GatewaySettings, error: OSError) -> QlaunchError:
    if error.errno == errno.EADDRINUSE:
        return QlaunchError(
            f"port {settings.port} of {settings.host} is taken",
            code="port_taken",
            exit_code=ExitCode.CONFLICT,
            fix="give another --port; 0 takes a free one",
        )
    return QlaunchError(
        f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}",
        code="bad_address",
        fix="give --host an address of this machine",
    )


class _Watcher:
    """Finds the models of servers known by URL, and follows them."""

    def __init__(
        self,
        settings: GatewaySettings,
        gateway: Gateway,
        session: aiohttp.ClientSession,
        store: Store | None,
    ) -> None:
        self._settings, self._groups, self._unlisted = settings, gateway.groups, gateway.unlisted
        self._session, self._store = session, store

    async def follow(self, one: UrlGroup) -> None:
        """Wait until each server tells its models, then probe them again and again."""
        books: dict[str, Probes] = {}
        async with asyncio.TaskGroup() as tasks:
            for url in one.urls:
                tasks.create_task(self._follow_one(one, url, books, tasks))

    async def _follow_one(
        self, one: UrlGroup, url: str, books: dict[str, Probes], tasks: asyncio.TaskGroup
    ) -> None:
        for name, model in (await self._models(one, url)).items():
            base = Identity(model=model, revision=one.revision, origin=" ".join(sorted(one.urls)))
            book = books.setdefault(name, Probes(base))
            checkpoint = self._settings.checkpoints.get(name)
            source = UrlSource(url, model, one.key, book, checkpoint)
            await source.probe(self._session, self._settings.secret, self._store)
            self._add(name, Replica(source))
            watching = source.watch(self._session, self._settings.secret, self._store)
            tasks.create_task(watching)
        self._unlisted.discard(one.urls)

    def _add(self, name: str, replica: Replica) -> None:
        group = self._groups.get(name)
        if group is None:
            group = Group(name, [replica], self._settings.secret, self._settings.limits)
            self._groups[name] = group
        else:
            group.add(replica)

    async def _models(self, one: UrlGroup, url: str) -> dict[str, str]:
        """What clients call them, and what the server does."""
        told = ""
        while True:
            try:
                listed = await served_models(self._session, url, one.key)
            except NoListError as error:
                why = str(error)
                if error.absent and one.name is None:
                    why += ": name its model, as NAME=URL"
                elif error.absent and one.name is not None:
                    if await self._embeds(url, one.name, one.key):
                        return {one.name: one.name}
                    why += f", and does not embed as {one.name!r}: see the path and the name"
            else:
                names = [model.id for model in listed]
                if one.name is not None and (model := _called(one.name, listed)) is not None:
                    return {one.name: model}
                taken = [name for name in names if name in self._groups]
                if one.name is None and not taken and len(names) <= MOST_MODELS:
                    return {name: name for name in names}
                why = _why_not(one.name, names, taken)
            if told != why:
                told = why
                _LOG.warning("%s %s", url, why)
            await asyncio.sleep(_LOOK_S)

    async def _embeds(self, url: str, model: str, key: str | None) -> bool:
        source = UrlSource(url, model, key, Probes(Identity(model=model)))
        return await source.answers(self._session)


def _called(name: str, listed: tuple[Listed, ...]) -> str | None:
    """What a server calls the model that clients call `name`; None where it may be any of them."""
    if name in {model.id for model in listed}:
        return name
    several = len({model.root or model.id for model in listed}) > 1
    return None if several else listed[0].id


def _why_not(name: str | None, names: list[str], taken: list[str]) -> str:
    some = ", ".join(repr(one) for one in names[:MOST_MODELS])
    if name is not None:
        return (
            f"serves {len(names)} models, and none is called {name!r}: name one of {some} as"
            f" MODEL=URL, and give --alias {name}=MODEL for the other name"
        )
    if taken:
        return f"serves {taken[0]!r}, which another server does: name the replicas NAME=URL,URL"
    return f"serves {len(names)} models: name one, as NAME=URL ({some}, …)"
