"""The gateway of one service: `python -m launcher.app.service_gateway`, started by its supervisor.

It knows its engine once and for all: another life of the engine, or another plan, gets another
gateway. Before a set it is told which replicas there are, again and again. What it is told and what
it says stands in launcher/documents/gateway.py.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from launcher.app.caching import cache_secret, cache_settings_of
from launcher.app.gateway import planned, plugin_is_current, service_limits
from launcher.config.service_cache import ServiceCache
from launcher.documents.gateway import (
    Drained,
    EngineChange,
    GatewayEvent,
    GatewayRequest,
    Listening,
    Refused,
    Resting,
    Rotation,
    Server,
    Wanted,
)
from launcher.errors import QlaunchError
from launcher.gateway.awaited_source import AwaitedSource
from launcher.gateway.backends.backend import BackendError, CacheSettings
from launcher.gateway.backends.opening import open_backend
from launcher.gateway.fixed_source import FixedSource
from launcher.gateway.identity import KEY_BYTES
from launcher.gateway.inputs import InputRules
from launcher.gateway.pool import Group
from launcher.gateway.replica import Replica, Seen, Source
from launcher.gateway.run import GatewaySettings, ServiceGroup, serve
from launcher.gateway.server import ServerSettings
from launcher.network.listening import is_loopback
from launcher.plan.caching import answers_bytes, bodies_bytes
from launcher.service import store

TITLE: Final = b"qlaunch::gatewa"
"""What the kernel calls it, in the 15 bytes it has (launcher/record/sampler.py)."""
ANSWER_S: Final = 120.0
"""For an answer of the engine: a long batch on a CPU takes minutes."""
WAKE_S: Final = 60.0
"""For a request that waits for an engine that was stopped: a fork of its template is there in 4 s
on a CPU, a whole start takes 20 s."""
HOLD_S: Final = 120.0
"""For a request of a set none of whose replicas serves while one is coming: a whole start."""
SET_CALLS: Final = 1024
"""Most calls at once of a set's clients; the queue before its servers is shorter."""
_DRAIN_LOOK_S: Final = 0.02
_LOOK_S: Final = 1.0
_LOG: Final = logging.getLogger("qlaunch.gateway")


def main() -> int:
    """Serve until SIGTERM; the exit code."""
    _name()
    _log_lines()
    line, rest = _first_line(sys.stdin.fileno())
    request = msgspec.json.decode(line, type=GatewayRequest)
    try:
        settings, problem = settings_of(request, rest)
        serve(settings, lambda _: _say(Listening(problem=problem)))
    except QlaunchError as error:
        code = int(error.exit_code)
        _say(Refused(message=error.message, code=error.code, exit_code=code, fix=error.fix))
        return code
    return 0


def _first_line(fd: int) -> tuple[bytes, bytes]:
    """The first line, and what was read beyond it: Python's own buffer would keep that."""
    data = b""
    while b"\n" not in data and (more := os.read(fd, 65536)):
        data += more
    line, _, rest = data.partition(b"\n")
    return line, rest


def settings_of(request: GatewayRequest, rest: bytes = b"") -> tuple[GatewaySettings, str | None]:
    """How to serve, and why the cache cannot be used for now, in a sentence.

    Args:
        request: from the supervisor.
        rest: what came after it already.

    Raises:
        QlaunchError: `bad_cache`, `extra_missing` (exit 2), `cache_key` (exit 1).
    """
    plan = request.plan
    known = plugin_is_current(store.folder(plan.service))
    if not known:
        _LOG.warning("the plugin is newer than the engine: nothing is kept until a restart")
    seen = msgspec.structs.replace(planned(plan, known=known), url=request.engine, key=request.key)
    servers = Servers(plan.model_name, seen, request, rest)
    group = ServiceGroup(
        name=plan.model_name,
        sources=servers.first,
        limits=service_limits(plan, ANSWER_S, hold_s=servers.hold_s),
        aliases=() if plan.guard is None else plan.guard.aliases,
    )
    settings = GatewaySettings(
        host=plan.host,
        port=request.port,
        services=(group,),
        follow=servers.follow,
        key=request.key,
        server=_server(request),
        inputs=InputRules(own_options=False),
    )
    return (settings, None) if plan.cache is None else _with_cache(settings, plan.cache)


def _with_cache(
    settings: GatewaySettings, cache: ServiceCache
) -> tuple[GatewaySettings, str | None]:
    """The same with a cache, and why that cannot be used for now."""
    found, problem = usable(cache_settings_of(cache))
    with_cache = msgspec.structs.replace(
        settings,
        cache=found,
        dtype=cache.dtype,
        budget_s=cache.wait_ms / 1000,
        memory_bytes=cache.memory_bytes,
        secret=cache_secret(cache.key_file),
    )
    return with_cache, problem


class Servers:
    """What the gateway asks, as the supervisor tells it line by line: an engine, or replicas."""

    def __init__(self, model: str, seen: Seen, request: GatewayRequest, rest: bytes) -> None:
        """`seen`: what is true of each; `rest`: what came after the request already."""
        self._model, self._seen, self._rest = model, seen, rest
        self._known: dict[Server, FixedSource] = {}
        self._drains: set[asyncio.Task[None]] = set()
        self._rotating = request.rotation is not None
        cache = request.plan.cache
        self.first: tuple[Source, ...]
        """At the start."""
        self.hold_s = 0.0
        """For a request for which there is none."""
        if request.rotation is not None:
            self.first, self.hold_s = self._sources(request.rotation), HOLD_S
        else:
            self._engine = AwaitedSource(request.plan.service, model, seen, lambda: _say(Wanted()))
            self.first = (self._engine,)
            self.hold_s = WAKE_S if cache is not None and cache.idle_stop_s is not None else 0.0

    def _sources(self, rotation: Rotation) -> tuple[FixedSource, ...]:
        """One for each; the same one as before where nothing of it has changed."""
        self._known = {
            server: self._known.get(server) or self._source(server) for server in rotation.servers
        }
        return tuple(self._known.values())

    def _source(self, server: Server) -> FixedSource:
        seen = msgspec.structs.replace(self._seen, url=server.url, coming=True)
        return FixedSource(server.name, self._model, seen)

    async def follow(self, groups: Mapping[str, Group]) -> None:
        """Obey further lines until the supervisor ends."""
        reader = asyncio.StreamReader()
        reader.feed_data(self._rest)
        pipe = os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        while line := await reader.readline():
            if self._rotating:
                self._rotate(groups[self._model], msgspec.json.decode(line, type=Rotation))
            else:
                self._change(msgspec.json.decode(line, type=EngineChange))

    def _change(self, change: EngineChange) -> None:
        self._engine.change(change.engine)
        if change.engine is None:
            _say(Resting())

    def _rotate(self, group: Group, rotation: Rotation) -> None:
        for replica in group.rotate(self._sources(rotation)):
            if replica.source.look().url is not None:
                drain = asyncio.create_task(_drained(replica, rotation.serial))
                self._drains.add(drain)
                drain.add_done_callback(self._drains.discard)


async def _drained(replica: Replica, serial: int) -> None:
    """Tell when a server that has left has finished its last call."""
    while replica.open:  # noqa: ASYNC110 - an event for each call's end would be made for this alone
        await asyncio.sleep(_DRAIN_LOOK_S)
    _say(Drained(server=replica.source.name, serial=serial))


def _server(request: GatewayRequest) -> ServerSettings:
    """The limits that the guard before an engine has, so that both say the same.

    Before a set the calls that are open at once are bounded by the queue of its servers: how many
    those are may change.
    """
    guard = request.plan.guard
    if guard is None:
        return ServerSettings()
    several = request.plan.replica_set
    engines = 1 if several is None else several.count
    return ServerSettings(
        most_inputs=guard.inputs,
        most_bytes=guard.body_bytes,
        most_open_bytes=bodies_bytes(guard, engines),
        most_answer_bytes=answers_bytes(guard, engines),
        most_open=guard.open_calls if request.rotation is None else SET_CALLS,
        body_s=guard.body_seconds,
        host_names=frozenset(guard.hosts) if is_loopback(request.plan.host) else None,
        origins=frozenset(guard.origins),
    )


def usable(settings: CacheSettings) -> tuple[CacheSettings | None, str | None]:
    """The cache to serve with (None: none), and what is wrong with it in a sentence.

    A server that cannot be reached may come; a file that cannot be used will not by itself.

    Raises:
        QlaunchError: `bad_cache`, `extra_missing` (exit 2).
    """
    try:
        backend = open_backend(settings)
    except QlaunchError as error:
        if error.code != "cache_unusable":
            raise
        _LOG.warning("%s; nothing is kept", error.message)
        return None, f"{error.message}: nothing is kept"
    answers: list[str] = []

    def ask() -> None:
        try:
            backend.get_many([bytes(KEY_BYTES)])
            answers.append("")
        except BackendError as error:
            answers.append(str(error))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_LOOK_S)
    why = answers[0] if answers else f"no answer within {_LOOK_S:g} s"
    if answers:
        backend.close()
    if not why:
        return settings, None
    _LOG.warning("the cache %s cannot be asked (%s): requests go past it", backend.name, why)
    return settings, f"the cache {backend.name} cannot be asked ({why}): requests go past it"


def _say(event: GatewayEvent) -> None:
    sys.stdout.write(msgspec.json.encode(event).decode() + "\n")
    sys.stdout.flush()


def _name() -> None:
    with suppress(OSError):
        Path("/proc/self/comm").write_bytes(TITLE)


def _log_lines() -> None:
    """Lines like the engine's, for they go into one log."""
    handler = logging.StreamHandler(sys.stderr)
    form = "[%(asctime)s] gateway %(levelname)s: %(message)s"
    handler.setFormatter(logging.Formatter(form, datefmt="%Y-%m-%d %H:%M:%S"))
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)
    _LOG.propagate = False


if __name__ == "__main__":
    sys.exit(main())
