"""Servers that come and go before a gateway's eyes: the replicas of a set."""

from __future__ import annotations

import asyncio

from launcher.gateway.fixed_source import FixedSource
from launcher.gateway.pool import Limits
from launcher.gateway.replica import Seen
from tests.gateway.harness import Bench, run, until
from tests.patience import PATIENCE_S


def source(url: str | None, name: str) -> FixedSource:
    return FixedSource(name, "m", Seen(url=url, coming=True))


def test_a_server_that_comes_does_not_get_all_requests_until_it_has_caught_up() -> None:
    async def work() -> None:
        async with Bench(None, servers=2) as bench:
            first, second = (source(server.url, server.url) for server in bench.servers)
            bench.group.rotate([first])
            for n in range(20):
                await bench.ask(f"a{n}")
            bench.group.rotate([first, second])
            for n in range(20):
                assert (await bench.ask(f"b{n}")).status == 200
            counts = {replica.source.name: replica.calls for replica in bench.group.replicas}
            assert counts[first.name] == 30
            assert counts[second.name] == 10

    run(work())


def test_a_server_that_leaves_finishes_its_calls_and_is_asked_no_more() -> None:
    async def work() -> None:
        async with Bench(None, servers=2) as bench:
            first, second = (source(server.url, server.url) for server in bench.servers)
            bench.group.rotate([first])
            bench.servers[0].gate = asyncio.Event()
            asked = asyncio.create_task(bench.ask("a"))
            await bench.servers[0].wait_for_calls(1)
            left = bench.group.rotate([second])
            assert [(one.source.name, one.open) for one in left] == [(first.name, 1)]
            assert (await bench.ask("b")).status == 200
            assert len(bench.servers[0].calls) == 1
            bench.servers[0].gate.set()
            assert (await asked).status == 200
            await until(lambda: left[0].open == 0)

    run(work())


def test_a_request_waits_for_a_server_that_is_coming() -> None:
    async def work() -> None:
        limits = Limits(timeout_s=PATIENCE_S, hold_s=PATIENCE_S)
        async with Bench(None, servers=1, limits=limits) as bench:
            bench.group.rotate([source(None, "server")])
            asked = asyncio.create_task(bench.ask("a"))
            await asyncio.sleep(0.1)
            assert not asked.done()
            bench.group.rotate([source(bench.server.url, "server")])
            assert (await asked).status == 200
            bench.group.rotate([])
            assert (await bench.ask("b")).status == 503

    run(work())
