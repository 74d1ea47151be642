"""Calls by plain HTTP: what is understood, what a general client gets, what is never mixed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest

from launcher.gateway.calls import Caller, UnreachableError
from launcher.gateway.plain_http import Answer, NotPlainError, PlainHttp
from tests.gateway.harness import run, until
from tests.patience import PATIENCE_S

MOST = 1 << 16
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nX-One:  a b \r\n\r\nok"


async def one_request(reader: asyncio.StreamReader) -> bytes:
    """A whole request; b"" where the client has closed."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head + await reader.readexactly(length)


def answering(*answers: bytes, close: bool = False) -> tuple[Script, list[bytes], list[int]]:
    """A server that gives these answers in turn; what it was asked, by which connection."""
    asked: list[bytes] = []
    by: list[int] = []
    connections = iter(range(1000))
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(connections)
        while request := await one_request(reader):
            asked.append(request)
            by.append(number)
            for byte in (answer := left.pop(0))[:-1], answer[-1:]:
                writer.write(byte)
                await writer.drain()
                await asyncio.sleep(0)
            if close:
                break
        writer.close()

    return serve, asked, by


@asynccontextmanager
async def listening(script: Script) -> AsyncIterator[str]:
    server = await asyncio.start_server(script, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/embeddings"


async def asked_of(url: str, client: PlainHttp, body: bytes = b"{}") -> Answer:
    return await asyncio.wait_for(client.post(url, {"A": "b"}, body), PATIENCE_S)


def test_an_answer_is_read_however_it_is_cut() -> None:
    async def work() -> None:
        script, asked, by = answering(PLAIN, PLAIN)
        client = PlainHttp(4.0, MOST)
        async with listening(script) as url:
            for _ in range(2):
                answer = await asked_of(url, client, b'{"x":1}')
                assert (answer.status, answer.body) == (200, b"ok")
                assert answer.headers == {"content-length": "2", "x-one": "a b"}
            assert by == [0, 0], "the connection is kept"
            first, *rest = asked[0].split(b"\r\n")
            assert first == b"POST /v1/embeddings HTTP/1.1"
            assert b"A: b" in rest
            assert rest[-1] == b'{"x":1}'
            client.close()
            await asyncio.sleep(0)

    run(work())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-encoding: gzip\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 1\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n folded: a\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN,
        b"HTTP/2 200\r\ncontent-length: 2\r\n\r\nok",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"x" * (33 << 10),
    ],
)
def test_what_is_not_plain_is_told_and_its_connection_closed(answer: bytes) -> None:
    async def work() -> None:
        script, _asked, by = answering(answer, PLAIN)
        client = PlainHttp(4.0, MOST)
        async with listening(script) as url:
            with pytest.raises(NotPlainError):
                await asked_of(url, client)
            assert (await asked_of(url, client)).body == b"ok"
            assert by == [0, 1]
            client.close()
            await asyncio.sleep(0)

    run(work())


@pytest.mark.parametrize(
    ("answer", "close"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok", False),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", False),
        (PLAIN, True),
    ],
)
def test_a_connection_that_ends_is_not_used_again(answer: bytes, close: bool) -> None:
    async def work() -> None:
        script, _asked, by = answering(answer, answer, close=close)
        client = PlainHttp(4.0, MOST)
        async with listening(script) as url:
            assert (await asked_of(url, client)).body == b"ok"
            if close:
                await until(lambda: not usable(client, url))
            assert (await asked_of(url, client)).body == b"ok"
            assert by == [0, 1]
            client.close()
            await asyncio.sleep(0)

    run(work())


def usable(client: PlainHttp, url: str) -> bool:
    """Whether a connection lies idle that the next call would take."""
    place = ("127.0.0.1", int(url.split(":")[2].partition("/")[0]))
    return any(one.reusable for one in client._idle.get(place, []))


def test_one_that_lay_idle_too_long_is_not_used_again() -> None:
    async def work() -> None:
        script, _asked, by = answering(PLAIN, PLAIN)
        client = PlainHttp(0.0, MOST)
        async with listening(script) as url:
            for _ in range(2):
                await asked_of(url, client)
            assert by == [0, 1]
            client.close()
            await asyncio.sleep(0)

    run(work())


def test_the_late_answer_to_a_call_that_was_given_up_is_nobodys() -> None:
    """The next call would else get another text's vector."""

    async def work() -> None:
        go = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while request := await one_request(reader):
                if request.endswith(b"slow"):
                    await go.wait()
                body = request[-4:]
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n" + body)
            writer.close()

        client = PlainHttp(4.0, MOST)
        async with listening(serve) as url:
            slow = asyncio.create_task(asked_of(url, client, b"slow"))
            await asyncio.sleep(0.01)
            slow.cancel()
            await asyncio.gather(slow, return_exceptions=True)
            go.set()
            for _ in range(5):
                assert (await asked_of(url, client, b"fast")).body == b"fast"
            client.close()
            await asyncio.sleep(0)

    run(work())


def test_what_nobody_asked_for_ends_the_connection() -> None:
    async def work() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await one_request(reader):
                writer.write(PLAIN)
                await writer.drain()
                await asyncio.sleep(0.01)
                writer.write(PLAIN.replace(b"ok", b"no"))
                await writer.drain()
            writer.close()

        client = PlainHttp(4.0, MOST)
        async with listening(serve) as url:
            for _ in range(3):
                assert (await asked_of(url, client)).body == b"ok"
                await until(lambda: not usable(client, url))
            client.close()
            await asyncio.sleep(0)

    run(work())


def test_a_header_cannot_begin_another_request() -> None:
    async def work() -> None:
        script, asked, _by = answering(PLAIN)
        client = PlainHttp(4.0, MOST)
        async with listening(script) as url:
            with pytest.raises(NotPlainError):
                await client.post(url, {"A": "b\r\nGET / HTTP/1.1"}, b"")
            with pytest.raises(NotPlainError):
                await client.post(url, {"A": "b\nC: d"}, b"")
            assert asked == []
            client.close()
            await asyncio.sleep(0)

    run(work())


def test_a_server_that_is_not_plain_is_asked_by_the_general_client() -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"

    async def work() -> None:
        script, asked, _by = answering(chunked, chunked, chunked)
        async with listening(script) as url, aiohttp.ClientSession() as session:
            caller = Caller(session)
            assert (await caller.post(url, {}, b"{}", PATIENCE_S)).body == b"ok"
            assert len(asked) == 2
            assert (await caller.post(url, {}, b"{}", PATIENCE_S)).body == b"ok"
            assert len(asked) == 3, "it is known by then"
            await caller.close()

    run(work())


def test_no_connection_and_a_broken_one_are_told_alike() -> None:
    async def work() -> None:
        async def slam(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await one_request(reader)
            writer.close()

        async with aiohttp.ClientSession() as session:
            caller = Caller(session)
            async with listening(slam) as url:
                with pytest.raises(UnreachableError):
                    await caller.post(url, {}, b"{}", PATIENCE_S)
            with pytest.raises(UnreachableError):
                await caller.post(url, {}, b"{}", PATIENCE_S)
            await caller.close()

    run(work())


def test_an_answer_that_does_not_come_is_a_timeout() -> None:
    async def work() -> None:
        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await one_request(reader)
            await reader.read()  # until the client closes
            writer.close()

        async with listening(hang) as url, aiohttp.ClientSession() as session:
            caller = Caller(session)
            with pytest.raises(TimeoutError):
                await caller.post(url, {}, b"{}", 0.05)
            await caller.close()

    run(work())
