"""Who goes first, and when no more are let in."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from launcher.gateway.access import Keys
from launcher.gateway.pool import Limits
from launcher.gateway.server import ServerSettings
from launcher.gateway.turns import IN_A_ROW, Turns
from tests.gateway.harness import Bench, Memory, run, until
from tests.gateway.scripted_server import truth
from tests.patience import PATIENCE_S


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_interactive_calls_go_before_bulk_that_waited_longer() -> None:
    async def work() -> None:
        turns = Turns(1)
        order: list[str] = []

        async def call(name: str, priority: Any) -> None:
            await turns.take(priority)
            order.append(name)
            await settle()
            turns.give(priority)

        await turns.take("interactive")
        names = [("bulk", "bulk"), *((f"i{n}", "interactive") for n in range(IN_A_ROW + 1))]
        tasks = [asyncio.create_task(call(*name)) for name in names]
        await settle()
        turns.give("interactive")
        await asyncio.gather(*tasks)
        # Bulk is not starved: after so many in a row, the first of which is ours, it has its turn.
        assert order.index("bulk") == IN_A_ROW - 1
        assert len(order) == IN_A_ROW + 2

    run(work())


def test_bulk_has_a_share_of_the_places() -> None:
    async def work() -> None:
        turns = Turns(8)
        tasks = [asyncio.create_task(turns.take("bulk")) for _ in range(5)]
        await settle()
        assert turns.open == {"interactive": 0, "bulk": 2}
        await turns.take("interactive")
        turns.give("bulk")
        await settle()
        assert turns.open == {"interactive": 1, "bulk": 2}
        turns.add(8)
        await settle()
        assert turns.open == {"interactive": 1, "bulk": 4}
        assert all(task.done() for task in tasks)

    run(work())


def test_who_gives_up_leaves_no_place_taken() -> None:
    async def work() -> None:
        turns = Turns(1)
        await turns.take("interactive")
        waiting = asyncio.create_task(turns.take("interactive"))
        other = asyncio.create_task(turns.take("interactive"))
        await settle()
        waiting.cancel()
        turns.give("interactive")  # the one that gives up has its turn at the same moment
        await asyncio.gather(waiting, return_exceptions=True)
        await other
        assert turns.free == 0
        turns.give("interactive")
        assert turns.free == 1

    run(work())


LIMITS = Limits(most_open=1, most_waiting=4, call_inputs=1, timeout_s=PATIENCE_S)


@pytest.mark.parametrize("how", ["field", "header", "key"])
def test_a_bulk_request_lets_others_pass(how: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("interactive-key\nnightly-key priority=bulk\n")

    async def work() -> None:
        async with Bench(Memory(), limits=LIMITS, keys=Keys(file)) as bench:
            bench.server.gate = asyncio.Event()
            key = {"Authorization": "Bearer interactive-key"}
            bulk_headers = dict(key)
            fields: dict[str, Any] = {}
            if how == "key":
                bulk_headers["Authorization"] = "Bearer nightly-key"
                fields["priority"] = "interactive"  # the key's rule stays
            elif how == "header":
                bulk_headers["X-Priority"] = "bulk"
            else:
                fields["priority"] = "bulk"
            bulk = asyncio.create_task(bench.ask(["b0", "b1"], headers=bulk_headers, **fields))
            await until(lambda: bench.group.waiting == 1)
            quick = asyncio.create_task(bench.ask("q", headers=key))
            await until(lambda: bench.group.waiting == 2)
            bench.server.gate.set()
            assert [(await one).status for one in (bulk, quick)] == [200, 200]
            assert [call["input"][0] for call in bench.server.calls] == ["b0", "q", "b1"]
            assert all("priority" not in call for call in bench.server.calls)

    run(work())


def test_an_interactive_request_does_not_wait_for_the_same_text_in_bulk() -> None:
    async def work() -> None:
        async with Bench(Memory(), limits=LIMITS) as bench:
            bench.server.gate = asyncio.Event()
            bulk = asyncio.create_task(bench.ask(["b0", "same"], priority="bulk"))
            await until(lambda: bench.group.waiting == 1)
            others = [asyncio.create_task(bench.ask("same", priority="bulk"))]
            quick = asyncio.create_task(bench.ask("same"))
            await until(lambda: bench.group.waiting == 2)
            bench.server.gate.set()
            replies = [await one for one in (bulk, quick, *others)]
            assert [reply.vectors[-1] for reply in replies] == [truth("same")] * 3
            assert bench.server.asked['"same"'] == 2  # bulk's own two share one call

    run(work())


def test_a_priority_that_there_is_not_is_a_400() -> None:
    async def work() -> None:
        async with Bench(Memory()) as bench:
            for fields, headers in (({"priority": "high"}, {}), ({}, {"X-Priority": "0"})):
                reply = await bench.ask("x", headers=headers, **fields)
                assert (reply.status, reply.body["error"]["code"]) == (400, "bad_priority")

    run(work())


def test_bulk_is_refused_while_there_is_room_for_others() -> None:
    async def work() -> None:
        async with Bench(Memory(), limits=LIMITS) as bench:
            bench.server.gate = asyncio.Event()
            asked = [asyncio.create_task(bench.ask("0"))]
            asked += [asyncio.create_task(bench.ask(str(n), priority="bulk")) for n in (1, 2)]
            await until(lambda: bench.group.waiting == 2)
            refused = await bench.ask("3", priority="bulk")
            assert refused.status == 429
            assert refused.headers["Retry-After"] == "1"
            asked.append(asyncio.create_task(bench.ask("4")))
            await until(lambda: bench.group.waiting == 3)
            bench.server.gate.set()
            assert {reply.status for reply in await asyncio.gather(*asked)} == {200}
            assert bench.group.under_way == 0

    run(work())


def test_the_queue_is_bounded_by_calls_and_not_by_requests() -> None:
    """One request of many inputs is many calls: the next is refused before they all wait."""

    async def work() -> None:
        async with Bench(Memory(), limits=LIMITS) as bench:
            bench.server.gate = asyncio.Event()
            large = asyncio.create_task(bench.ask([str(n) for n in range(20)]))
            await until(lambda: bench.group.waiting == 19)
            refused = await asyncio.gather(*(bench.ask([f"x{n}", f"y{n}"]) for n in range(5)))
            assert {reply.status for reply in refused} == {429}
            assert bench.group.waiting == 19
            bench.server.gate.set()
            assert (await large).status == 200
            assert (await bench.ask("x1")).status == 200

    run(work())


def test_bodies_are_bounded_together() -> None:
    async def work() -> None:
        settings = ServerSettings(most_open_bytes=1000)
        async with Bench(Memory(), settings=settings) as bench:
            bench.server.gate = asyncio.Event()
            first = asyncio.create_task(bench.ask("a" * 800))
            await bench.server.wait_for_calls(1)
            refused = await bench.ask("b" * 300)
            assert (refused.status, refused.body["error"]["code"]) == (429, "busy")
            assert refused.headers["Retry-After"] == "1"
            second = asyncio.create_task(bench.ask("c"))
            await bench.server.wait_for_calls(2)
            bench.server.gate.set()
            assert {(await one).status for one in (first, second)} == {200}
            assert (await bench.ask("b" * 300)).status == 200

    run(work())
