"""Requests that go past the cache, and pages of origins that may not ask."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
from multidict import CIMultiDict

from launcher.gateway.access import OneKey
from launcher.gateway.bypass import goes_past
from launcher.gateway.server import ServerSettings
from tests.gateway.harness import Bench, Memory, run
from tests.gateway.scripted_server import truth


@pytest.mark.parametrize("said", ["no-store", "no-cache", "max-age=0, No-Store", " no-cache "])
def test_words_that_go_past(said: str) -> None:
    assert goes_past([said])
    assert goes_past(["max-age=0", said])


@pytest.mark.parametrize("said", ["", "max-age=0", "private", "no-storex"])
def test_words_that_do_not(said: str) -> None:
    assert not goes_past([said])
    assert not goes_past([])


def test_every_input_is_made_now_and_nothing_is_kept() -> None:
    async def work() -> None:
        async with Bench(Memory()) as bench:
            past = {"Cache-Control": "no-store"}
            await bench.ask(["a"])
            await bench.kept()
            reply = await bench.ask(["a", "b", "a"], past)
            assert reply.hits == 0
            assert reply.headers["X-Cache-Misses"] == "3"
            assert reply.vectors == [pytest.approx(truth(x), abs=1e-6) for x in "aba"]
            assert (bench.server.asked['"a"'], bench.server.asked['"b"']) == (3, 1)
            await bench.kept()
            assert (await bench.ask(["b"])).hits == 0
            assert (await bench.ask(["a"])).hits == 1

    run(work())


def test_every_line_of_the_header_counts() -> None:
    """A second line of it was not read: the answer came from the cache."""

    async def work() -> None:
        async with Bench(Memory()) as bench:
            await bench.ask("a")
            await bench.kept()
            lines = [("Cache-Control", "max-age=0"), ("Cache-Control", "no-store")]
            async with (
                aiohttp.ClientSession() as session,
                session.post(
                    f"{bench.url}v1/embeddings",
                    json={"model": "m", "input": "a"},
                    headers=CIMultiDict(lines),
                ) as answer,
            ):
                assert answer.headers["X-Cache-Hits"] == "0"

    run(work())


def test_two_requests_past_the_cache_share_nothing() -> None:
    async def work() -> None:
        async with Bench(Memory()) as bench:
            bench.server.gate = asyncio.Event()
            past = {"Cache-Control": "no-store"}
            asked = [asyncio.create_task(bench.ask("a", past)) for _ in range(2)]
            asked.append(asyncio.create_task(bench.ask("a")))
            await bench.server.wait_for_calls(3)
            bench.server.gate.set()
            replies = await asyncio.gather(*asked)
            assert [reply.headers["X-Cache-Shared"] for reply in replies] == ["0"] * 3
            assert bench.server.asked['"a"'] == 3

    run(work())


def test_a_batch_past_the_cache_is_cut_as_any_other() -> None:
    async def work() -> None:
        async with Bench(None) as bench:
            texts = [str(n % 3) for n in range(150)]
            reply = await bench.ask(texts, {"Cache-Control": "no-cache"})
            assert reply.vectors == [pytest.approx(truth(x), abs=1e-6) for x in texts]
            assert sum(bench.server.asked.values()) == 150
            assert [len(call["input"]) for call in bench.server.calls] == [64, 64, 22]

    run(work())


ALLOWED = "https://app.example"


@pytest.mark.parametrize(
    ("origin", "origins", "status"),
    [
        (ALLOWED, {ALLOWED}, 200),
        (ALLOWED, {"*"}, 200),
        (ALLOWED, set(), 403),
        ("https://evil.example", {ALLOWED}, 403),
        (None, set(), 200),
    ],
)
def test_pages_of_other_origins_are_refused(
    origin: str | None, origins: set[str], status: int
) -> None:
    async def work() -> None:
        settings = ServerSettings(origins=frozenset(origins))
        async with Bench(Memory(), settings=settings) as bench:
            reply = await bench.ask("a", {} if origin is None else {"Origin": origin})
            assert reply.status == status
            told = reply.headers.get("Access-Control-Allow-Origin")
            assert told == (origin if origin and status == 200 else None)
            assert bool(bench.server.calls) == (status == 200)

    run(work())


def test_a_browser_is_told_what_a_page_may_send() -> None:
    async def work() -> None:
        settings = ServerSettings(origins=frozenset({ALLOWED}))
        async with (
            Bench(Memory(), settings=settings, keys=OneKey("a-key-of-eight")) as bench,
            aiohttp.ClientSession() as session,
        ):
            asked = {"Origin": ALLOWED, "Access-Control-Request-Headers": "authorization"}
            async with session.options(f"{bench.url}v1/embeddings", headers=asked) as answer:
                assert answer.status == 204
                assert answer.headers["Access-Control-Allow-Headers"] == "authorization"
                assert answer.headers["Access-Control-Allow-Origin"] == ALLOWED
            stranger = {"Origin": "https://evil.example"}
            async with session.options(f"{bench.url}v1/embeddings", headers=stranger) as answer:
                assert answer.status in {401, 405}
                assert "Access-Control-Allow-Origin" not in answer.headers
            refused = await bench.ask("a", {"Origin": ALLOWED})  # readable for the page, too
            assert refused.status == 401
            assert refused.headers["Access-Control-Allow-Origin"] == ALLOWED

    run(work())


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("Bearer a-key-of-eight", True),
        ("bearer a-key-of-eight", True),
        ("Bearer another", False),
        ("Basic a-key-of-eight", False),
        ("a-key-of-eight", False),
        (None, False),
    ],
)
def test_the_one_key_of_a_service(header: str | None, allowed: bool) -> None:
    key = OneKey("a-key-of-eight")
    assert (key.client(header) is not None) is allowed
    assert key.reload() is None


@pytest.mark.parametrize(("name", "status"), [("m", 200), ("x", 404), ("org/m", 404)])
def test_one_model_is_told_as_the_engine_tells_it(name: str, status: int) -> None:
    async def work() -> None:
        async with Bench(Memory()) as bench:
            found, text = await bench.get(f"v1/models/{name}")
            assert found == status
            told = json.loads(text)
            assert told.get("id") == ("m" if status == 200 else None)

    run(work())
