"""The gateway of one service: `python -m launcher.app.service_gateway`, started by its supervisor.

It knows its engine once and for all: another life of the engine, or another plan, gets another
gateway. What it is told and what it says stands in launcher/documents/gateway.py.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from launcher.app.caching import cache_secret_of, cache_settings_of
from launcher.app.gateway import (
    checkpoint_in_force,
    identity_of,
    plugin_is_current,
    service_limits,
)
from launcher.app.vector_cuts import cuts_of
from launcher.documents.gateway import GatewayRequest
from launcher.errors import QlaunchError
from launcher.gateway.access import is_loopback
from launcher.gateway.backends.backend import BackendError, CacheSettings
from launcher.gateway.backends.opening import open_backend
from launcher.gateway.fixed_source import FixedSource
from launcher.gateway.identity import KEY_BYTES
from launcher.gateway.replica import Seen
from launcher.gateway.run import GatewaySettings, ServiceGroup, serve
from launcher.gateway.server import ServerSettings
from launcher.service import store

TITLE: Final = b"qlaunch::gatewa"
"""What the kernel calls it, in the 15 bytes it has (launcher/record/sampler.py)."""
ANSWER_S: Final = 120.0
"""For an answer of the engine: a long batch on a CPU takes minutes."""
_LOOK_S: Final = 1.0
_LOG: Final = logging.getLogger("qlaunch.gateway")


def main() -> int:
    """Serve until SIGTERM; the exit code."""
    _name()
    _log_lines()
    request = msgspec.json.decode(sys.stdin.buffer.readline(), type=GatewayRequest)
    try:
        settings, problem = settings_of(request)
        serve(settings, lambda _: _say("listening", problem=problem))
    except QlaunchError as error:
        code = int(error.exit_code)
        _say("error", message=error.message, code=error.code, exit_code=code, fix=error.fix)
        return code
    return 0


def settings_of(request: GatewayRequest) -> tuple[GatewaySettings, str | None]:
    """How to serve, and why the cache cannot be used for now, in a sentence.

    Raises:
        QlaunchError: `bad_cache`, `extra_missing` (exit 2), `cache_key` (exit 1).
    """
    plan = request.plan
    assert plan.cache is not None
    asked = cache_settings_of(plan.cache)
    cache, problem = usable(asked)
    known = plugin_is_current(store.folder(plan.service))
    if not known:
        _LOG.warning("the plugin is newer than the engine: nothing is kept until a restart")
    seen = Seen(
        url=request.engine,
        key=request.key,
        identity=identity_of(plan) if known else None,
        checkpoint=checkpoint_in_force(plan, plan.expectation),
        cuts=cuts_of(plan),
    )
    group = ServiceGroup(
        name=plan.model_name,
        sources=(FixedSource(plan.service, plan.model_name, seen),),
        limits=service_limits(plan, ANSWER_S),
        aliases=() if plan.guard is None else plan.guard.aliases,
    )
    settings = GatewaySettings(
        host=plan.host,
        port=request.port,
        services=(group,),
        cache=cache,
        dtype=plan.cache.dtype,
        budget_s=plan.cache.wait_ms / 1000,
        memory_bytes=plan.cache.memory_bytes,
        secret=cache_secret_of(plan.cache),
        key=request.key,
        server=_server(request),
    )
    return settings, problem


def _server(request: GatewayRequest) -> ServerSettings:
    """The limits that the guard before the engine has, so that both say the same."""
    guard = request.plan.guard
    if guard is None:
        return ServerSettings()
    return ServerSettings(
        most_inputs=guard.inputs,
        most_bytes=guard.body_bytes,
        most_open=guard.open_calls,
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


def _say(event: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
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
