"""What clients get through a gateway, held to what the engine gives: over servers that err."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from launcher.documents.smoke import Check, VerifyRequest
from launcher.service.supervisor.smoke_process import verify_request
from launcher.verify.through_gateway import check_gateway
from tests import samples
from tests.gateway.scripted_server import ScriptedServer


@contextmanager
def servers(count: int) -> Iterator[list[ScriptedServer]]:
    """So many scripted servers, in a loop of a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    made = [ScriptedServer() for _ in range(count)]
    entered = [server.running() for server in made]
    try:
        for one in entered:
            asyncio.run_coroutine_threadsafe(one.__aenter__(), loop).result()
        yield made
        for one in entered:
            asyncio.run_coroutine_threadsafe(one.__aexit__(None, None, None), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def request(endpoint: str) -> VerifyRequest:
    return verify_request(samples.plan(), endpoint)


def checked(change: Callable[[ScriptedServer], object]) -> Check:
    with servers(2) as (engine, gateway):
        change(gateway)
        return check_gateway(request(engine.url), gateway.url, None)


def test_the_same_vectors_are_ok() -> None:
    check = checked(lambda _gateway: None)
    assert check.ok, check.detail
    assert check.name == "gateway"
    assert "least cosine 1.00000" in check.detail


def swapped(answer: dict[str, Any]) -> dict[str, Any]:
    """The vectors of the first two inputs changed places, as caches with wrong indices do."""
    first, second, *_ = answer["data"]
    first["embedding"], second["embedding"] = second["embedding"], first["embedding"]
    return answer


def short(answer: dict[str, Any]) -> dict[str, Any]:
    return {**answer, "data": answer["data"][:-1]}


FAULTS: dict[str, tuple[str, Any, str]] = {
    "another model's": ("model", "other", "with the engine's own"),
    "mixed up": ("spoil", swapped, "text 0"),
    "one too few": ("spoil", short, "has no vector"),
    "an error": ("status", 500, "http://"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_what_differs_is_told(what: str) -> None:
    name, value, words = FAULTS[what]
    check = checked(lambda gateway: setattr(gateway, name, value))
    assert not check.ok
    assert words in check.detail
