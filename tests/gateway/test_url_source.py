"""Servers known only by URL: the same vectors are the same model, others begin an empty cache."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from launcher.gateway.identity import Identity, space_of
from launcher.gateway.store import Store
from launcher.gateway.url_source import Probes, UrlSource, same
from tests.gateway.harness import SECRET, Memory, run, until
from tests.gateway.scripted_server import ScriptedServer
from tests.patience import PATIENCE_S

BASE = Identity(model="m", origin="here")


class World:
    """Servers, a session and a store."""

    def __init__(self, session: aiohttp.ClientSession, store: Store) -> None:
        self.session, self.store = session, store

    async def probe(self, *sources: UrlSource) -> None:
        """Probe each, and wait until what is to be kept is."""
        for source in sources:
            await source.probe(self.session, SECRET, self.store)
        await self.store.flush()


@asynccontextmanager
async def world(memory: Memory) -> AsyncIterator[World]:
    async with aiohttp.ClientSession() as session:
        store = Store(memory, SECRET, budget_s=PATIENCE_S)
        yield World(session, store)
        await store.close()


def space(source: UrlSource) -> bytes | None:
    identity = source.look().identity
    return None if identity is None else space_of(SECRET, identity)


def test_the_same_model_has_the_same_space_after_a_restart_of_the_gateway() -> None:
    async def work() -> None:
        memory = Memory()
        spaces = []
        async with ScriptedServer().running() as server:
            for _ in range(2):
                async with world(memory) as w:
                    source = UrlSource(server.url, "m", None, Probes(BASE))
                    assert space(source) is None  # unknown until it is asked
                    await w.probe(source)
                    spaces.append(space(source))
                    identity = source.look().identity
                    assert identity is not None
                    assert identity.dimensions == 16
        assert spaces[0] is not None
        assert spaces[0] == spaces[1]

    run(work())


def test_another_model_behind_the_url_has_another_space(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with ScriptedServer().running() as server, world(Memory()) as w:
            source = UrlSource(server.url, "m", None, Probes(BASE))
            await w.probe(source)
            first = space(source)
            server.model = "n"
            await w.probe(source)
            assert space(source) not in {None, first}

    run(work())
    assert "makes other vectors than before" in caplog.text


def test_a_failed_connection_or_probe_makes_it_unknown() -> None:
    async def work() -> None:
        async with ScriptedServer().running() as server, world(Memory()) as w:
            source = UrlSource(server.url, "m", None, Probes(BASE))
            await w.probe(source)
            source.suspect()
            assert space(source) is None
            await w.probe(source)
            assert space(source) is not None
            server.status = 503
            await w.probe(source)
            assert space(source) is None
            server.status = 200
            server.spoil = lambda _answer: "NaN"
            await w.probe(source)
            assert space(source) is None

    run(work())


def test_replicas_that_agree_share_a_space_and_others_do_not() -> None:
    async def work() -> None:
        a, b, c = ScriptedServer(), ScriptedServer(), ScriptedServer()
        c.model = "n"
        async with a.running(), b.running(), c.running(), world(Memory()) as w:
            book = Probes(BASE)
            sources = [UrlSource(s.url, "m", None, book) for s in (a, b, c)]
            await w.probe(*sources)
            assert space(sources[0]) == space(sources[1]) is not None
            assert space(sources[2]) not in {None, space(sources[0])}
            # All of them come to serve the new model, one after the other.
            before = space(sources[0])
            a.model = b.model = "n"
            await w.probe(*sources, *sources)
            assert len({space(source) for source in sources}) == 1
            assert space(sources[0]) != before

    run(work())


def test_it_is_watched_until_it_answers(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        server = ScriptedServer()
        async with server.running(), world(Memory()) as w:
            server.status = 503
            source = UrlSource(server.url, "m", None, Probes(BASE))
            watch = asyncio.create_task(source.watch(w.session, SECRET, w.store))
            await server.wait_for_calls(1)
            server.status = 200
            await until(lambda: space(source) is not None)
            source.suspect()
            await until(lambda: space(source) is not None)
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    with caplog.at_level(logging.WARNING):
        run(work())


def test_close_vectors_are_the_same_and_others_are_not() -> None:
    import struct

    one = struct.pack("<4f", 1, 0, 0, 0)
    near = struct.pack("<4f", 1, 0.01, 0, 0)
    far = struct.pack("<4f", 1, 0.1, 0, 0)
    assert same(one + one, [near, one])
    assert not same(one + one, [one, far])
    assert not same(one, [one, one])


def test_a_probe_that_never_was_answered_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with ScriptedServer().running() as server, world(Memory()) as w:
            server.status = 404
            source = UrlSource(server.url, "m", None, Probes(BASE))
            await w.probe(source, source)

    run(work())
    assert caplog.text.count("does not answer the probe: status 404") == 1


@pytest.mark.parametrize("form", [">{}f", "<{}d", "<{}e", "<{}f"])
def test_base64_that_is_not_float32_lowest_byte_first_is_not_asked_for(form: str) -> None:
    async def work() -> None:
        async with ScriptedServer().running() as server, world(Memory()) as w:
            server.packed = lambda vector: struct.pack(form.format(len(vector)), *vector)
            source = UrlSource(server.url, "m", None, Probes(BASE))
            assert not source.look().base64, "it is not known yet"
            await w.probe(source)
            assert source.look().base64 is (form == "<{}f")
            asked = len(server.calls)
            await w.probe(source)
            assert len(server.calls) == asked + 1, "once for a model"
            source.suspect()
            assert not source.look().base64

    run(work())
