"""Small calls of several requests in one: each gets its own vectors, tokens and refusals."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from launcher.gateway import joining
from launcher.gateway.pool import Limits
from launcher.gateway.replica import TOKENS
from tests.gateway.harness import Bench, Memory, Reply, run, until
from tests.gateway.scripted_server import truth
from tests.patience import PATIENCE_S

LIMITS = Limits(timeout_s=PATIENCE_S, call_inputs=8)
FEW = joining.FEW


@pytest.fixture(autouse=True)
def none_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have two calls be enough for others to wait."""
    monkeypatch.setattr(joining, "FEW", 0)


async def known(bench: Bench) -> None:
    """Have the server answer once, so that it is known to tell tokens."""
    bench.server.tells_tokens = True
    await bench.ask("the first")
    bench.server.calls.clear()


async def held(bench: Bench, *asked: Any, **fields: Any) -> list[asyncio.Task[Reply]]:
    """So many requests at once while no call is answered; all but the first are waiting."""
    bench.server.gate = asyncio.Event()
    tasks = []
    for value in asked:
        before = bench.group.under_way
        tasks.append(asyncio.create_task(bench.ask(value, **fields)))
        await until(lambda before=before: bench.group.under_way > before)  # type: ignore[misc]
    await bench.server.wait_for_calls(min(joining.AT_ONCE, len(tasks)))
    return tasks


async def let_go(bench: Bench, tasks: list[asyncio.Task[Reply]]) -> list[Reply]:
    assert bench.server.gate is not None
    bench.server.gate.set()
    return await asyncio.gather(*tasks)


def sizes(bench: Bench) -> list[int]:
    return [len(call["input"]) for call in bench.server.calls]


def test_calls_that_come_while_others_are_under_way_go_together() -> None:
    async def work() -> None:
        async with Bench(Memory(), limits=LIMITS) as bench:
            await known(bench)
            texts = [[f"text {n}", f"other {n}" * (n + 1)] for n in range(5)]
            tasks = await held(bench, *texts)
            assert sizes(bench) == [2, 2], "two are under way, three wait"
            assert bench.group.waiting == 3
            replies = await let_go(bench, tasks)
            assert sizes(bench) == [2, 2, 6]
            assert bench.group.waiting == 0
            for asked, reply in zip(texts, replies, strict=True):
                assert reply.vectors == [truth(text) for text in asked]
                assert reply.body["usage"]["prompt_tokens"] == sum(map(len, asked))
                assert reply.headers["X-Cache-Misses"] == "2"

    run(work())


def test_a_joined_call_has_no_more_inputs_than_a_call_may_have() -> None:
    async def work() -> None:
        async with Bench(Memory(), limits=LIMITS) as bench:
            await known(bench)
            tasks = await held(bench, *([f"a{n}", f"b{n}", f"c{n}"] for n in range(7)))
            replies = await let_go(bench, tasks)
            assert all(reply.status == 200 for reply in replies)
            assert sizes(bench)[:2] == [3, 3]
            assert max(sizes(bench)) <= LIMITS.call_inputs
            assert len(bench.server.calls) == 5

    run(work())


def test_one_refused_text_refuses_its_own_request_alone() -> None:
    async def work() -> None:
        async with Bench(Memory(), limits=LIMITS) as bench:
            await known(bench)
            bench.server.refused = lambda item: item == "bad"
            tasks = await held(bench, "one", "two", "three", "bad", "four")
            replies = await let_go(bench, tasks)
            assert [reply.status for reply in replies] == [200, 200, 200, 400, 200]
            assert replies[2].vectors == [truth("three")]
            assert sizes(bench) == [1, 1, 3, 1, 1, 1]

    run(work())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda answer: {**answer, "data": answer["data"][:-1]},
        lambda answer: {**answer, "data": [answer["data"][0]] * len(answer["data"])},
    ],
)
def test_a_wrong_answer_to_a_joined_call_is_nobodys(spoil: Any) -> None:
    async def work() -> None:
        async with Bench(Memory(), limits=LIMITS) as bench:
            await known(bench)
            tasks = await held(bench, "one", "two", "three", "four")

            def short(answer: dict[str, Any]) -> Any:
                return spoil(answer) if len(answer["data"]) > 1 else answer

            bench.server.spoil = short
            replies = await let_go(bench, tasks)
            texts = ("one", "two", "three", "four")
            assert [reply.vectors for reply in replies] == [[truth(text)] for text in texts]

    run(work())


def test_all_are_told_where_the_server_is_gone() -> None:
    async def work() -> None:
        async with Bench(Memory(), limits=LIMITS) as bench:
            await known(bench)
            tasks = await held(bench, "one", "two", "three", "four")
            bench.server.drop = 1000
            replies = await let_go(bench, tasks)
            assert {reply.status for reply in replies} == {503}
            bench.server.drop = 0
            assert (await bench.ask("three")).vectors == [truth("three")]
            assert bench.group.under_way == 0

    run(work())


def test_another_model_in_the_midst_of_a_joined_call_is_seen_by_all() -> None:
    async def work() -> None:
        async with Bench(Memory(), limits=LIMITS) as bench:
            await known(bench)
            tasks = await held(bench, "one", "two", "three", "four")
            source = bench.sources[0]
            assert source.identity is not None
            bench.server.model = "other"
            source.identity = type(source.identity)(model="other", dimensions=16, normalize=True)
            replies = await let_go(bench, tasks)
            for text, reply in zip(("one", "two", "three", "four"), replies, strict=True):
                assert reply.vectors == [truth(text, model="other")]

    run(work())


@pytest.mark.parametrize(
    "fields", [{"user": "u"}, {"extra": 1}, {"dimensions": 8}, {"priority": "bulk"}]
)
def test_what_differs_in_more_than_its_inputs_is_not_joined(fields: dict[str, Any]) -> None:
    async def work() -> None:
        async with Bench(Memory(), limits=LIMITS) as bench:
            await known(bench)
            tasks = await held(bench, "one", "two", "three")
            odd = asyncio.create_task(bench.ask("odd", **fields))
            await bench.server.wait_for_calls(3)
            assert bench.server.calls[2]["input"] == ["odd"]
            replies = await let_go(bench, [*tasks, odd])
            assert all(reply.status == 200 for reply in replies)

    run(work())


def test_what_goes_past_the_cache_is_not_joined() -> None:
    async def work() -> None:
        async with Bench(Memory(), limits=LIMITS) as bench:
            await known(bench)
            bench.server.gate = asyncio.Event()
            past = {"Cache-Control": "no-store"}
            tasks = [asyncio.create_task(bench.ask(f"{n}", past)) for n in range(5)]
            await bench.server.wait_for_calls(5)
            await let_go(bench, tasks)

    run(work())


def test_token_ids_and_texts_are_not_joined() -> None:
    async def work() -> None:
        async with Bench(Memory(), limits=LIMITS) as bench:
            await known(bench)
            tasks = await held(bench, "one", "two", "three")
            ids = asyncio.create_task(bench.ask([1, 2, 3]))
            await bench.server.wait_for_calls(3)
            replies = await let_go(bench, [*tasks, ids])
            assert replies[3].vectors == [truth([1, 2, 3])]

    run(work())


def test_a_server_that_does_not_tell_tokens_gets_each_call_alone() -> None:
    async def work() -> None:
        async with Bench(Memory(), limits=LIMITS) as bench:
            await bench.ask("the first")
            bench.server.calls.clear()
            bench.server.gate = asyncio.Event()
            tasks = [asyncio.create_task(bench.ask(f"{n}")) for n in range(6)]
            await bench.server.wait_for_calls(6)
            replies = await let_go(bench, tasks)
            assert sizes(bench) == [1] * 6
            assert all(reply.body["usage"]["prompt_tokens"] == 1 for reply in replies)

    run(work())


def test_a_server_that_stops_telling_tokens_is_asked_again_for_each() -> None:
    """A joined answer whose tokens nobody can share out is not shared out."""

    async def work() -> None:
        async with Bench(Memory(), limits=LIMITS) as bench:
            await known(bench)
            tasks = await held(bench, "one", "two", "three", "seven")
            bench.server.tells_tokens = False
            replies = await let_go(bench, tasks)
            tokens = [reply.body["usage"]["prompt_tokens"] for reply in replies]
            assert tokens == [3, 3, 5, 5]
            assert sizes(bench) == [1, 1, 2, 1, 1]

    run(work())


@pytest.mark.parametrize("header", ["3,9", "3", "3,5,0", "3,x", "", "3,-5", "³,5"])
def test_a_header_that_cannot_be_right_is_none(header: str) -> None:
    async def work() -> None:
        async with Bench(Memory(), limits=LIMITS) as bench:
            bench.server.answer_headers = {TOKENS: header.encode().decode("latin-1")}
            reply = await bench.ask(["one", "three"])
            assert reply.status == 200
            assert bench.group.replicas[0].tells_tokens is False

    run(work())


def test_a_large_part_waits_for_nobody() -> None:
    async def work() -> None:
        async with Bench(Memory(), limits=LIMITS) as bench:
            await known(bench)
            tasks = await held(bench, "one", "two", "three")
            large = asyncio.create_task(bench.ask([f"l{n}" for n in range(8)]))
            await bench.server.wait_for_calls(3)
            assert sizes(bench) == [1, 1, 8]
            await let_go(bench, [*tasks, large])

    run(work())


def test_a_few_calls_are_left_to_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four or eight at once the engine makes larger batches than a gateway that holds them."""

    async def work() -> None:
        async with Bench(Memory(), limits=LIMITS) as bench:
            monkeypatch.setattr(joining, "FEW", FEW)
            await known(bench)
            bench.server.gate = asyncio.Event()
            tasks = [asyncio.create_task(bench.ask(f"{n}")) for n in range(FEW)]
            await bench.server.wait_for_calls(FEW)
            more = [asyncio.create_task(bench.ask(f"more {n}")) for n in range(4)]
            await until(lambda: bench.group.under_way == FEW + 4)
            assert sizes(bench) == [1] * FEW
            replies = await let_go(bench, [*tasks, *more])
            assert all(reply.status == 200 for reply in replies)
            assert sizes(bench) == [1] * FEW + [4]

    run(work())
