"""Connections of clients that stop sending, or never quite send."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvloop

from launcher.gateway.ending import Ending
from launcher.gateway.run import GatewaySettings, _listening
from launcher.gateway.server import ServerSettings
from tests.gateway.harness import Bench, Memory, until
from tests.patience import PATIENCE_S

Run = Callable[[Coroutine[Any, Any, None]], None]
BODY = b'{"model":"m","input":"a"}'
CALL = (
    b"POST /v1/embeddings HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY)
) + BODY
LOOK = b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run on each of the two event loops."""

    def start(work: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(work, PATIENCE_S))

    return start


class Client:
    """A connection to a gateway that listens as it does in earnest."""

    def __init__(self, bench: Bench, port: int) -> None:
        self.bench, self._port = bench, port

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)

    async def rest(self) -> bytes:
        """What comes until the gateway closes."""
        return await self.reader.read()

    async def answer(self) -> bytes:
        """The head of one answer, and its body read."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(
            line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
        )
        await self.reader.readexactly(int(length.split(b":")[1]))
        return head


@asynccontextmanager
async def connected(**settings: Any) -> AsyncIterator[Client]:
    server = ServerSettings(**settings)
    async with Bench(Memory(), settings=server) as bench:
        listening = GatewaySettings(host="127.0.0.1", port=0, server=server, drain_s=0.1)
        async with _listening(bench.gateway, listening, Ending()) as endpoint:
            client = Client(bench, urlsplit(endpoint).port or 0)
            await client.open()
            try:
                yield client
            finally:
                client.writer.close()
                with contextlib.suppress(OSError):
                    await client.writer.wait_closed()


@pytest.mark.parametrize(
    "sent",
    [CALL, LOOK, LOOK.replace(b"1.1", b"1.0"), CALL.replace(b'"a"', b"1e4")],
    ids=["call", "look", "HTTP/1.0", "refused"],
)
def test_who_sends_nothing_more_is_answered(run: Run, sent: bytes) -> None:
    """`shutdown(SHUT_WR)` after the request had the connection closed without an answer."""

    async def work() -> None:
        async with connected() as client:
            client.writer.write(sent)
            client.writer.write_eof()
            answer = await client.rest()
            assert answer.startswith(b"HTTP/1."), answer
            assert answer.endswith(b"}"), answer

    run(work())


def test_who_stops_sending_while_it_is_answered_is(run: Run) -> None:
    async def work() -> None:
        async with connected() as client:
            client.bench.server.gate = asyncio.Event()
            client.writer.write(CALL)
            await client.bench.server.wait_for_calls(1)
            client.writer.write_eof()
            await asyncio.sleep(0.1)
            client.bench.server.gate.set()
            assert b" 200 " in await client.rest()

    run(work())


CHUNKS = CALL[: CALL.index(b"Content-Length")] + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"
WAITS = CALL[: -len(BODY) - 2] + b"Expect: 100-continue\r\n\r\n"


@pytest.mark.parametrize("sent", [CALL[:-1], CHUNKS, WAITS], ids=["length", "chunks", "expect"])
@pytest.mark.parametrize("goes", ["closes", "resets", "sends no more"])
def test_who_leaves_before_its_body_came_is_no_failure_of_the_gateway(
    run: Run, sent: bytes, goes: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It was an "unexpected ConnectionResetError", and a 500 in the metrics."""

    async def work() -> None:
        async with connected() as client:
            client.writer.write(sent)
            await until(lambda: client.bench.gateway._open == 1)
            {
                "closes": client.writer.close,
                "resets": client.writer.transport.abort,
                "sends no more": client.writer.write_eof,
            }[goes]()
            await until(lambda: client.bench.gateway._open == 0)
            told = client.bench.gateway.metrics.text().decode()
            assert 'refused_total{code="client_gone"} 1.0' in told
            assert 'requests_total{model="unknown",status="400"} 1.0' in told
        assert "unexpected" not in caplog.text

    run(work())


@pytest.mark.parametrize("sent", [b"", LOOK[:9], CALL[:-1], LOOK + CALL[:-1]])
def test_what_will_not_come_whole_is_not_waited_for(run: Run, sent: bytes) -> None:
    async def work() -> None:
        async with connected(header_s=PATIENCE_S, body_s=PATIENCE_S) as client:
            client.writer.write(sent)
            client.writer.write_eof()
            answer = await asyncio.wait_for(client.rest(), PATIENCE_S / 2)
            assert answer.count(b" 200 ") == sent.count(LOOK)

    run(work())


def test_a_connection_that_is_closed_while_idle_is_closed(run: Run) -> None:
    async def work() -> None:
        async with connected(idle_s=PATIENCE_S) as client:
            client.writer.write(LOOK)
            assert b" 200 " in await client.answer()
            client.writer.write_eof()
            assert await asyncio.wait_for(client.rest(), PATIENCE_S / 2) == b""

    run(work())


@pytest.mark.parametrize("before", [b"", LOOK], ids=["first", "second"])
def test_a_header_that_drips_in_is_given_up(run: Run, before: bytes) -> None:
    """It was waited for for an hour."""

    async def work() -> None:
        async with connected(header_s=0.5) as client:
            if before:
                client.writer.write(before)
                assert b" 200 " in await client.answer()

            async def drip() -> None:
                for byte in LOOK[:-4] + b"X-Long: " + b"a" * 10_000:
                    client.writer.write(bytes([byte]))
                    await asyncio.sleep(0.02)

            dripping = asyncio.create_task(drip())
            with contextlib.suppress(ConnectionError):
                assert await client.rest() == b""
            assert not dripping.done()
            dripping.cancel()

    run(work())


def test_a_header_s_time_is_no_other_s(run: Run) -> None:
    """Neither what is being made nor an idle connection is ended by it."""

    async def work() -> None:
        async with connected(header_s=0.5) as client:
            client.bench.server.delay_s = 0.7
            client.writer.write(CALL)
            assert b" 200 " in await client.answer()
            await asyncio.sleep(0.7)
            client.writer.write(CALL)
            assert b" 200 " in await client.answer()

    run(work())


def test_a_connection_that_nobody_uses_is_closed(run: Run) -> None:
    async def work() -> None:
        async with connected(idle_s=0.5) as client:
            client.writer.write(LOOK)
            assert b" 200 " in await client.answer()
            assert await client.rest() == b""
            client.writer.close()
            await client.open()
            assert await client.rest() == b""

    run(work())


def long_call(client: Client) -> bytes:
    """One that is answered by 20 MB, more than the kernel holds of it."""
    client.bench.server.dimensions = 2000
    client.bench.sources[0].identity = None
    body = json.dumps({"model": "m", "input": ["x"] * 500}).encode()
    return CALL[: -len(BODY)].replace(b"%d" % len(BODY), b"%d" % len(body)) + body


def test_a_client_that_does_not_read_keeps_nobody_out(run: Run) -> None:
    """A stopped process held the room of its answer for ever: others got 429."""

    async def work() -> None:
        async with connected(take_s=0.3, most_answer_bytes=1) as client:
            client.writer.write(long_call(client))
            await client.bench.server.wait_for_calls(1)
            assert (await client.bench.ask("y")).status == 429
            while (await client.bench.ask("y")).status == 429:  # noqa: ASYNC110 - clients can but ask
                await asyncio.sleep(0.05)

    run(work())


def test_a_client_that_reads_slowly_gets_all_of_it(run: Run) -> None:
    async def work() -> None:
        async with connected(take_s=1.0) as client:
            client.writer.write(long_call(client))
            head = await client.reader.readuntil(b"\r\n\r\n")
            left = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            assert left > 15_000_000
            while left:
                await asyncio.sleep(0.01)
                part = await client.reader.read(1 << 20)
                assert part
                left -= len(part)

    run(work())
