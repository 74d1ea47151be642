"""Who asks the server, and how often: single flight, cut batches, replicas, back-pressure."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from launcher.gateway.identity import Identity
from launcher.gateway.pool import Limits
from launcher.gateway.problems import UpstreamRefusalError
from tests.gateway.harness import Bench, Memory, Reply, run, until
from tests.gateway.scripted_server import truth
from tests.patience import PATIENCE_S


async def joined(bench: Bench, value: Any) -> asyncio.Task[Reply]:
    """A request that waits for what another has under way."""
    waits, under_way = asyncio.Event(), bench.resolver._under_way

    def look(keys: Any, priority: Any) -> dict[bytes, asyncio.Future[bytes | None]]:
        if found := under_way(keys, priority):
            waits.set()
        return found

    bench.resolver._under_way = look  # type: ignore[method-assign]
    asked = asyncio.create_task(bench.ask(value))
    await waits.wait()
    return asked


def test_what_many_miss_at_once_is_made_once() -> None:
    async def work() -> None:
        async with Bench(Memory()) as bench:
            bench.server.gate = asyncio.Event()
            asked = [
                asyncio.create_task(bench.ask(["shared", f"own{n}"][:: 1 if n % 2 else -1]))
                for n in range(20)
            ]
            await bench.server.wait_for_calls(20)
            bench.server.gate.set()
            replies = await asyncio.gather(*asked)
            for n, reply in enumerate(replies):
                texts = ["shared", f"own{n}"][:: 1 if n % 2 else -1]
                assert reply.vectors == [truth(text) for text in texts]
            assert bench.server.asked['"shared"'] == 1
            assert sum(int(r.headers["X-Cache-Shared"]) for r in replies) == 19
            # What the server read is told once, by whom it was read for.
            tokens = sum(reply.body["usage"]["prompt_tokens"] for reply in replies)
            assert tokens == sum(len(t) for call in bench.server.calls for t in call["input"])

    run(work())


def test_a_text_that_spoils_another_request_spoils_only_that() -> None:
    async def work() -> None:
        async with Bench(Memory()) as bench:
            bench.server.gate = asyncio.Event()
            bench.server.refused = lambda item: item == "bad"
            first = asyncio.create_task(bench.ask(["good", "bad"]))
            await bench.server.wait_for_calls(1)
            second = await joined(bench, ["good"])
            bench.server.gate.set()
            assert (await first).status == 400
            assert (await second).vectors == [truth("good")]

    run(work())


def test_who_leaves_takes_nothing_from_those_who_wait() -> None:
    async def work() -> None:
        async with Bench(Memory()) as bench:
            bench.server.gate = asyncio.Event()
            first = asyncio.create_task(bench.ask(["x"]))
            await bench.server.wait_for_calls(1)
            second = await joined(bench, ["x"])
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            bench.server.gate.set()
            assert (await second).vectors == [truth("x")]
            assert bench.server.asked['"x"'] == 1

    run(work())


def test_a_large_batch_is_cut_to_what_the_server_takes() -> None:
    async def work() -> None:
        limits = Limits(call_inputs=7, call_bytes=200, timeout_s=PATIENCE_S)
        async with Bench(Memory(), limits=limits) as bench:
            texts = [f"text {n}" for n in range(100)] + ["long" * 100, "é" * 99]
            reply = await bench.ask(texts)
            assert reply.vectors == [truth(text) for text in texts]
            assert max(len(call["input"]) for call in bench.server.calls) == 7
            assert all(
                len(call["input"]) == 1 or sum(len(t.encode()) for t in call["input"]) <= 200
                for call in bench.server.calls
            )
            assert reply.body["usage"]["prompt_tokens"] == sum(map(len, texts))

    run(work())


def test_one_part_that_fails_fails_the_request_and_keeps_the_others() -> None:
    async def work() -> None:
        memory = Memory()
        async with Bench(memory, limits=Limits(call_inputs=1, timeout_s=PATIENCE_S)) as bench:
            bench.server.refused = lambda item: item == "bad"
            assert (await bench.ask(["a", "bad", "b"])).status == 400
            await bench.kept()
            assert len(memory.entries) == 2
            assert (await bench.ask(["a", "b"])).hits == 2

    run(work())


@pytest.mark.parametrize("call_inputs", [1, 3, 64])
def test_a_refused_input_is_named_by_its_number_in_the_clients_call(call_inputs: int) -> None:
    """The server's own number counted neither hits nor duplicates, nor what went in other calls."""

    async def work() -> None:
        limits = Limits(call_inputs=call_inputs, timeout_s=PATIENCE_S)
        async with Bench(Memory(), limits=limits) as bench:
            await bench.ask(["known", "known too"])
            await bench.kept()
            bench.server.refused = lambda item: item == "bad"
            reply = await bench.ask(["known", "a", "a", "known too", "b", "bad", "bad"])
            assert reply.status == 400
            assert reply.body["error"] == {"message": "input[5] is refused", "param": "input"}

    run(work())


def test_numbers_that_are_no_inputs_of_the_call_stay() -> None:
    said = b'{"error":{"message":"input[1] and input[9], my_input[0]"}}'
    own = UpstreamRefusalError(400, said, retry_after=3).numbered([7, 8])
    assert own.body() == b'{"error":{"message":"input[8] and input[9], my_input[0]"}}'
    assert (own.status, own.retry_after) == (400, 3)


def test_all_hits_ask_no_server_and_cost_no_tokens() -> None:
    async def work() -> None:
        async with Bench(Memory()) as bench:
            assert (await bench.ask(["a", "b"])).body["usage"]["prompt_tokens"] == 2
            await bench.kept()
            bench.sources[0].url = None  # the server is gone, its vectors are not
            reply = await bench.ask(["b", "a"])
            assert reply.vectors == [truth("b"), truth("a")]
            assert reply.body["usage"] == {"prompt_tokens": 0, "total_tokens": 0}
            assert (await bench.ask(["c"])).status == 503

    run(work())


@pytest.mark.parametrize("fault", ["drop", "status", "nan", "gone"])
def test_another_replica_answers_where_one_fails(fault: str) -> None:
    async def work() -> None:
        async with Bench(Memory(), servers=2) as bench:
            bad = bench.servers[0]
            bad.drop = 1000 if fault == "drop" else 0
            bad.status = 500 if fault == "status" else 200
            if fault == "nan":
                bad.spoil = lambda _answer: "NaN"
            if fault == "gone":
                bench.sources[0].url = None
            for n in range(12):
                assert (await bench.ask(str(n))).vectors == [truth(str(n))]
            assert sum(bench.servers[1].asked.values()) == 12
            assert len(bad.calls) <= 6  # it rests after three failures
            assert bench.gateway.groups["m"].ready()

    run(work())


def test_the_one_with_fewer_calls_under_way_is_asked() -> None:
    async def work() -> None:
        async with Bench(Memory(), servers=2) as bench:
            slow = bench.servers[0]
            slow.gate = asyncio.Event()
            first = asyncio.create_task(bench.ask("first"))
            await slow.wait_for_calls(1)
            for n in range(5):
                await bench.ask(str(n))
            assert len(slow.calls) == 1
            slow.gate.set()
            assert (await first).status == 200

    run(work())


@pytest.mark.parametrize("servers", [1, 2])
def test_one_that_has_too_much_to_do_is_left_to_another_and_is_no_failure(servers: int) -> None:
    """TEI answers 429 where its queue is full: a client got it while other replicas were idle."""

    async def work() -> None:
        async with Bench(Memory(), servers=servers) as bench:
            bench.server.status = 429
            bench.server.error_headers = {"Retry-After": "7"}
            for text in "abcdef":
                assert (await bench.ask(text)).status == (200 if servers == 2 else 429)
            assert servers == 2 or len(bench.server.calls) == 6  # none of them twice
            assert bench.group.replicas[0].breaker.state == "closed"
            for server in bench.servers:
                server.status, server.error_headers = 429, {"Retry-After": "7"}
            last = await bench.ask("g")
            assert (last.status, last.headers["Retry-After"]) == (429, "7")

    run(work())


def test_a_replica_of_another_model_is_not_asked(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with Bench(Memory(), servers=2) as bench:
            bench.servers[1].model = "n"
            bench.sources[1].identity = Identity(model="n")
            for n in range(6):
                assert (await bench.ask(str(n))).vectors == [truth(str(n))]
            assert bench.servers[1].calls == []
            bench.sources[0].url = None
            assert (await bench.ask("x")).status == 503

    run(work())
    assert "server1 is not asked: its vectors differ from those of m" in caplog.text


def test_an_idle_connection_that_was_closed_is_tried_again() -> None:
    async def work() -> None:
        async with Bench(Memory()) as bench:
            bench.server.drop = 1
            assert (await bench.ask("x")).vectors == [truth("x")]
            assert bench.sources[0].suspected == 1

    run(work())


def test_a_server_that_hangs_is_a_504() -> None:
    async def work() -> None:
        async with Bench(Memory(), limits=Limits(timeout_s=0.3)) as bench:
            bench.server.gate = asyncio.Event()
            reply = await bench.ask("x")
            assert reply.status == 504
            assert len(bench.server.calls) == 1  # what takes so long is not asked for twice
            bench.server.gate.set()

    run(work())


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("7", 7),
        ("0", 1),
        (None, 1),
        ("soon", 1),
        ("9" * 30, 86_400),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 1),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400),
    ],
)
def test_the_time_that_the_server_asks_for_is_the_client_s(said: str | None, told: int) -> None:
    """It was 1 s whatever the server said, and clients came back too soon."""

    async def work() -> None:
        async with Bench(Memory()) as bench:
            bench.server.status = 429
            bench.server.error_headers = {} if said is None else {"Retry-After": said}
            reply = await bench.ask("x")
            assert (reply.status, reply.headers["Retry-After"]) == (429, str(told))

    run(work())


def test_more_than_may_wait_are_refused_with_a_time() -> None:
    async def work() -> None:
        limits = Limits(most_open=1, most_waiting=2, timeout_s=PATIENCE_S)
        memory = Memory()
        async with Bench(memory, limits=limits) as bench:
            await bench.ask("known")
            await bench.kept()
            bench.server.gate = asyncio.Event()
            asked = [asyncio.create_task(bench.ask(str(n))) for n in range(3)]
            await until(lambda: bench.group.waiting == 2)
            refused = await bench.ask("one more")
            assert refused.status == 429
            assert refused.headers["Retry-After"] == "1"
            assert (await bench.ask("known")).hits == 1  # hits wait for nobody
            bench.server.gate.set()
            assert {reply.status for reply in await asyncio.gather(*asked)} == {200}

    run(work())


def test_a_refusal_that_names_base64_s_field_among_others_changes_nothing() -> None:
    """`x is not a field; it takes input, encoding_format, …`: all later answers came as numbers."""

    async def work() -> None:
        async with Bench(Memory()) as bench:
            bench.server.status = 400
            bench.server.error_body = '{"error":{"message":"it takes input, encoding_format"}}'
            assert (await bench.ask("x")).status == 400
            bench.server.status = 200
            await bench.ask("x")
            assert bench.server.calls[-1]["encoding_format"] == "base64"

    run(work())


def test_a_server_without_base64_is_asked_for_numbers() -> None:
    async def work() -> None:
        async with Bench(Memory()) as bench:
            bench.server.base64 = False
            assert (await bench.ask("x", encoding_format="base64")).vectors == [truth("x")]
            assert (await bench.ask("y")).vectors == [truth("y")]
            formats = [call["encoding_format"] for call in bench.server.calls]
            assert formats == ["base64", "float", "float"]

    run(work())


def test_the_gateways_own_key_being_refused_is_not_the_clients_fault() -> None:
    async def work() -> None:
        async with Bench(Memory()) as bench:
            bench.server.status = 401
            reply = await bench.ask("x")
            assert reply.status == 502
            assert reply.body["error"]["code"] == "upstream_denied"

    run(work())


def test_without_a_cache_requests_share_what_is_being_made() -> None:
    async def work() -> None:
        async with Bench(None) as bench:
            bench.server.gate = asyncio.Event()
            first = asyncio.create_task(bench.ask("x"))
            await bench.server.wait_for_calls(1)
            second = await joined(bench, "x")
            bench.server.gate.set()
            assert (await first).vectors == (await second).vectors == [truth("x")]
            assert bench.server.asked['"x"'] == 1

    run(work())


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 7}, 7),
        ({"prompt_tokens": 7.0}, 7),
        ({"prompt_tokens": "7"}, 0),
        ({"prompt_tokens": 7.5}, 0),
        ({"prompt_tokens": True}, 0),
        ({"prompt_tokens": -7}, 0),
        ({"prompt_tokens": None}, 0),
        ({}, 0),
        ([7], 0),
        (None, 0),
    ],
)
def test_vectors_are_not_lost_for_an_odd_usage(usage: Any, tokens: int) -> None:
    """`7.0` and `"7"` were a 502."""

    async def work() -> None:
        async with Bench(Memory()) as bench:
            bench.server.spoil = lambda answer: {**answer, "usage": usage}
            reply = await bench.ask("a")
            assert reply.vectors == [truth("a")]
            assert reply.body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}

    run(work())


def test_vectors_of_another_length_have_the_model_looked_at_again() -> None:
    """A server at a URL that became another model was a 502 until the next probe, 30 s later."""

    async def work() -> None:
        async with Bench(Memory()) as bench:
            source = bench.sources[0]
            whole = [{"index": 0, "embedding": truth("a")}]  # it ignores `dimensions`
            bench.server.spoil = lambda answer: {**answer, "data": whole}
            assert (await bench.ask("a", dimensions=8)).status == 502
            bench.server.spoil = lambda _answer: "NaN"
            assert (await bench.ask("b")).status == 502
            assert source.suspected == 0
            bench.server.spoil = lambda answer: answer
            bench.server.dimensions = 8
            assert (await bench.ask("c")).status == 502
            assert source.suspected > 0

    run(work())
