"""The nine ways in which caches before embedding servers have returned wrong vectors."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher.gateway.backends.backend import Backend
from launcher.gateway.identity import Identity
from launcher.gateway.pool import Limits
from launcher.gateway.recent import RecentVectors
from launcher.gateway.store import BUDGET_S, budget_for
from tests.gateway.harness import Bench, Memory, run
from tests.gateway.scripted_server import truth
from tests.patience import PATIENCE_S


def test_hits_and_misses_in_one_batch_keep_order_and_index(backend: Backend) -> None:
    async def work() -> None:
        async with Bench(backend) as bench:
            await bench.ask(["b", "d"])
            await bench.kept()
            reply = await bench.ask(["a", "b", "c", "d", "e"])
            assert reply.vectors == [truth(text) for text in "abcde"]
            assert reply.hits == 2
            assert reply.headers["X-Cache-Misses"] == "3"
            await bench.kept()
            again = await bench.ask(["e", "d", "c", "b", "a"])
            assert again.vectors == [truth(text) for text in "edcba"]
            assert again.hits == 5
            assert set(bench.server.asked.values()) == {1}

    run(work())


def test_answers_out_of_order_are_put_in_order() -> None:
    async def work() -> None:
        async with Bench(Memory()) as bench:
            bench.server.spoil = lambda answer: answer | {"data": answer["data"][::-1]}
            texts = [str(n) for n in range(20)]
            assert (await bench.ask(texts)).vectors == [truth(text) for text in texts]
            await bench.kept()
            assert (await bench.ask(texts)).vectors == [truth(text) for text in texts]

    run(work())


def test_a_string_and_a_list_of_it_are_one_and_token_ids_another(backend: Backend) -> None:
    async def work() -> None:
        async with Bench(backend) as bench:
            await bench.ask("1")
            await bench.kept()
            assert (await bench.ask(["1"])).hits == 1
            by_ids = await bench.ask([49])  # the byte of "1"
            assert by_ids.hits == 0
            assert by_ids.vectors == [truth([49])]
            await bench.kept()
            assert (await bench.ask([[49]])).hits == 1
            assert (await bench.ask([[49], [49, 0]])).vectors == [truth([49]), truth([49, 0])]

    run(work())


def test_float_and_base64_come_from_one_entry(backend: Backend) -> None:
    async def work() -> None:
        async with Bench(backend) as bench:
            first = await bench.ask("x", encoding_format="base64")
            assert isinstance(first.body["data"][0]["embedding"], str)
            await bench.kept()
            second = await bench.ask("x", encoding_format="float")
            third = await bench.ask("x")
            fourth = await bench.ask("x", encoding_format="base64")
            assert [second.hits, third.hits, fourth.hits] == [1, 1, 1]
            assert isinstance(second.body["data"][0]["embedding"], list)
            for reply in (first, second, third, fourth):
                assert reply.vectors == [truth("x")]
            assert fourth.body["data"] == first.body["data"]

    run(work())


CHANGES: dict[str, Any] = {
    "model": "n",
    "revision": "r",
    "fingerprint": "f",
    "pooling": "cls",
    "normalize": None,
    "dtype": "bf16",
    "dimensions": None,
    "engine": "e",
    "plugin": "p",
    "instruction": "i",
    "settings": ("--x",),
    "origin": "o",
    "probe": "q",
}


def test_everything_that_decides_a_vector_is_tried_below() -> None:
    assert CHANGES.keys() == set(Identity.__struct_fields__)


@pytest.mark.parametrize("name", CHANGES)
def test_what_decides_vectors_is_in_the_key(name: str) -> None:
    async def work() -> None:
        async with Bench(Memory()) as bench:
            await bench.ask("x")
            await bench.kept()
            identity = bench.sources[0].identity
            assert identity is not None
            bench.sources[0].identity = msgspec.structs.replace(identity, **{name: CHANGES[name]})
            bench.server.model = "another"
            reply = await bench.ask("x")
            assert reply.hits == 0
            assert reply.vectors == [truth("x", model="another")]
            bench.sources[0].identity = identity
            await bench.kept()
            back = await bench.ask("x")
            assert back.hits == 1
            assert back.vectors == [truth("x")]

    run(work())


def test_dimensions_and_unknown_fields_are_in_the_key(backend: Backend) -> None:
    async def work() -> None:
        async with Bench(backend) as bench:
            for _ in range(2):
                assert (await bench.ask("x")).vectors == [truth("x")]
                assert (await bench.ask("x", dimensions=8)).vectors == [truth("x", 8)]
                await bench.kept()
            assert (await bench.ask("x", dimensions=8)).hits == 1
            assert (await bench.ask("x", input_type="query")).hits == 0
            await bench.kept()
            assert (await bench.ask("x", input_type="passage")).hits == 0
            assert (await bench.ask("x", input_type="query")).hits == 1
            assert bench.server.calls[-1]["input_type"] == "passage"
            assert (await bench.ask("x", user="somebody")).hits == 1

    run(work())


def test_a_text_that_occurs_twice_in_a_batch_is_made_once(backend: Backend) -> None:
    async def work() -> None:
        async with Bench(backend) as bench:
            texts = ["a", "b", "a", "a", "c", "b"]
            reply = await bench.ask(texts)
            assert reply.vectors == [truth(text) for text in texts]
            assert bench.server.calls[0]["input"] == ["a", "b", "c"]
            await bench.kept()
            again = await bench.ask(texts)
            assert again.vectors == [truth(text) for text in texts]
            assert again.hits == 6

    run(work())


@pytest.mark.parametrize("status", [400, 404, 413, 422, 429, 500, 502, 503])
def test_an_error_of_the_server_is_not_kept(status: int) -> None:
    async def work() -> None:
        memory = Memory()
        async with Bench(memory) as bench:
            bench.server.status = status
            reply = await bench.ask(["x", "y"])
            assert reply.status == status
            await bench.kept()
            assert memory.entries == {}
            bench.server.status = 200
            assert (await bench.ask(["x", "y"])).vectors == [truth("x"), truth("y")]

    run(work())


def spoiled(change: Any) -> Any:
    """The answer with its first item changed."""

    def spoil(answer: dict[str, Any]) -> Any:
        data = [dict(item) for item in answer["data"]]
        return answer | {"data": change(data)}

    return spoil


def embedding(value: Any) -> Any:
    return spoiled(lambda data: [data[0] | {"embedding": value}, *data[1:]])


WRONG: dict[str, Any] = {
    "NaN": lambda answer: json.dumps(embedding([float("nan")] * 16)(answer)),
    "infinite": lambda answer: json.dumps(embedding([float("inf")] * 16)(answer)),
    "NaN in base64": embedding("AADAfw==" * 16),
    "too large for float32": embedding([1e300] + [0.0] * 15),
    "null": embedding([None] * 16),
    "nothing": embedding([]),
    "zero": embedding([0.0] * 16),
    "too long a vector": embedding([0.5] * 4 + [0.0] * 13),
    "too short a vector": embedding([1.0]),
    "not of length 1": embedding([1.0] * 16),
    "not base64": embedding("%%%"),
    "a vector too few": spoiled(lambda data: data[:-1]),
    "a vector too many": spoiled(lambda data: [*data, data[-1] | {"index": len(data)}]),
    "an index twice": spoiled(lambda data: [data[0], data[1] | {"index": 0}, *data[2:]]),
    "a negative index": spoiled(lambda data: [data[0] | {"index": -1}, *data[1:]]),
    "no index": spoiled(lambda data: [{"embedding": d["embedding"]} for d in data]),
    "no JSON": lambda _answer: "<html>busy</html>",
    "another document": lambda _answer: "[]",
    "an error with status 200": lambda _answer: '{"error": "out of memory"}',
    "half an answer": lambda answer: json.dumps(answer)[:-40],
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_answer_is_caught_and_not_kept(kind: str) -> None:
    async def work() -> None:
        memory = Memory()
        async with Bench(memory) as bench:
            bench.server.base64 = kind != "NaN in base64"
            bench.server.spoil = WRONG[kind]
            reply = await bench.ask(["x", "y", "z"])
            assert reply.status == 502
            assert reply.body["error"]["code"] == "upstream_wrong"
            await bench.kept()
            assert memory.entries == {}
            bench.server.spoil = lambda answer: answer
            assert (await bench.ask(["x", "y", "z"])).vectors == [truth(t) for t in "xyz"]

    run(work())


def test_an_index_of_0_may_be_left_out() -> None:
    """Servers that write JSON from protocol buffers leave zeros out: all calls were 502."""

    async def work() -> None:
        async with Bench(Memory()) as bench:

            def without_zeros(data: list[Any]) -> list[Any]:
                return [{k: v for k, v in one.items() if v != 0} for one in reversed(data)]

            bench.server.spoil = spoiled(without_zeros)
            assert (await bench.ask(["x", "y"])).vectors == [truth("x"), truth("y")]

    run(work())


def test_a_store_that_is_down_is_bypassed(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        memory = Memory()
        memory.fail = True
        async with Bench(memory) as bench:
            for n in range(6):
                assert (await bench.ask(["x", str(n)])).vectors == [truth("x"), truth(str(n))]
                await bench.kept()
            assert bench.store is not None
            assert bench.store.breaker.state == "open"
            assert bench.store.counts.bypassed == 3
            assert bench.store.counts.written == 0
            _status, page = await bench.get("metrics")
            assert "qlaunch_gateway_cache_bypassed 1.0" in page

    run(work())
    assert "the cache memory is bypassed: told to fail" in caplog.text


ALPHABET = st.sampled_from(["a", "b", "c", "", " a", "a ", "é", "é", "\x00", "[1]", "🙂"])
BATCHES = st.lists(
    st.tuples(
        st.one_of(
            st.lists(st.one_of(ALPHABET, st.text(max_size=3)), min_size=1, max_size=12),
            st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), min_size=1, max_size=6),
        ),
        st.sampled_from([None, 4, 8]),
        st.sampled_from(["float", "base64"]),
        st.sampled_from(["m", "n"]),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize("memory_bytes", [0, 1500, 1 << 20])
@given(batches=BATCHES)
@settings(
    max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_any_batches_are_answered_as_without_a_cache(
    backend: Backend, memory_bytes: int, batches: Any
) -> None:
    """Whatever was asked before, hits are what the server would say; batches run in pairs."""

    async def work() -> None:
        limits = Limits(call_inputs=3, timeout_s=PATIENCE_S)
        async with Bench(backend, limits=limits, memory_bytes=memory_bytes) as bench:

            async def one(inputs: Any, size: Any, encoding: str, wait: bool) -> None:
                fields: dict[str, Any] = {"encoding_format": encoding}
                if size is not None:
                    fields["dimensions"] = size
                reply = await bench.ask(inputs, **fields)
                expected = [truth(item, size or 16, bench.server.model) for item in inputs]
                assert reply.vectors == expected
                if wait:
                    await bench.kept()

            for inputs, size, encoding, model, wait in batches:
                bench.server.model = model
                bench.sources[0].identity = Identity(model=model, dimensions=16, normalize=True)
                await asyncio.gather(
                    one(inputs, size, encoding, wait), one(inputs[::-1], size, encoding, wait)
                )

    run(work())


def test_a_model_that_changes_while_it_is_asked_spoils_no_batch() -> None:
    async def work() -> None:
        async with Bench(Memory()) as bench:
            await bench.ask(["a", "b"])
            await bench.kept()
            bench.server.gate = asyncio.Event()
            asked = asyncio.create_task(bench.ask(["a", "b", "c"]))
            await bench.server.wait_for_calls(2)
            bench.server.model = "n"
            bench.sources[0].identity = Identity(model="n", dimensions=16, normalize=True)
            bench.server.gate.set()
            reply = await asked
            assert reply.vectors == [truth(text, model="n") for text in "abc"]
            assert reply.hits == 0

    run(work())


def test_of_an_unknown_model_nothing_is_kept() -> None:
    async def work() -> None:
        memory = Memory()
        async with Bench(memory) as bench:
            bench.sources[0].identity = None
            assert (await bench.ask(["a", "a"])).vectors == [truth("a")] * 2
            await bench.kept()
            assert memory.entries == {}
            assert (await bench.ask("a")).hits == 0

    run(work())


def test_an_entry_that_was_changed_is_missing() -> None:
    async def work() -> None:
        memory = Memory()
        async with Bench(memory) as bench:
            await bench.ask("a")
            await bench.kept()
            ((key, entry),) = memory.entries.items()
            memory.entries[key] = entry[:-1] + bytes([entry[-1] ^ 1])
            reply = await bench.ask("a")
            assert reply.hits == 0
            assert reply.vectors == [truth("a")]
            assert bench.store is not None
            assert bench.store.counts.corrupt == 1

    run(work())


def test_float16_answers_the_same_first_and_later() -> None:
    async def work() -> None:
        async with Bench(Memory(), dtype="float16") as bench:
            first = await bench.ask(["a", "b"])
            await bench.kept()
            second = await bench.ask(["a", "b"])
            assert second.hits == 2
            assert second.vectors == first.vectors
            assert first.vectors[0] == pytest.approx(truth("a"), abs=1e-3)

    run(work())


def test_the_vectors_used_last_are_in_memory_for_a_minute() -> None:
    now = [0.0]
    recent = RecentVectors(4000, lambda: now[0])
    for n in range(10):
        recent.put(b"%d" % n, bytes(700))
        assert recent.get(b"0") == bytes(700)  # used: it stays
        assert recent.bytes <= 4000
    assert [n for n in range(10) if recent.get(b"%d" % n)] == [0, 7, 8, 9]
    now[0] = 59.0
    recent.put(b"0", b"new")
    assert recent.get(b"9")
    now[0] = 61.0
    assert recent.get(b"9") is None
    assert recent.get(b"0") == b"new"
    recent.put(b"huge", bytes(5000))
    assert recent.get(b"huge") is None
    nothing = RecentVectors(0)
    nothing.put(b"a", b"b")
    assert nothing.get(b"a") is None


def test_vectors_that_nobody_asks_for_any_more_leave_memory_after_their_minute() -> None:
    """They stayed until there was no room, so that a gateway of ever new texts grew for an hour."""
    now = [0.0]
    recent = RecentVectors(1 << 30, lambda: now[0])
    for n in range(1000):
        now[0] += 1.0
        recent.put(b"%d" % n, bytes(700))
        if now[0] % 30 == 0:
            recent.get(b"0" if now[0] < 60 else b"%d" % (n - 30))
    assert recent.bytes <= 91 * (700 + 300)
    assert recent.get(b"999")


def test_what_is_in_memory_is_answered_while_the_store_is_down() -> None:
    async def work() -> None:
        memory = Memory()
        async with Bench(memory, memory_bytes=1 << 20) as bench:
            await bench.ask(["a", "b"])
            await bench.kept()
            memory.fail = True
            for _ in range(5):
                reply = await bench.ask(["b", "a"])
                assert reply.vectors == [truth("b"), truth("a")]
                assert reply.hits == 2

    run(work())


def test_a_large_batch_may_wait_longer() -> None:
    assert budget_for(1) == budget_for(63) == BUDGET_S == 0.005
    assert budget_for(2048) == pytest.approx(33 * BUDGET_S)
