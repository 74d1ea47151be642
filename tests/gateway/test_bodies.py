"""Bodies on their way: announced, waited with, late, compressed."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from urllib.parse import urlsplit

import pytest

from launcher.gateway.access import OneKey
from launcher.gateway.server import ServerSettings
from tests.gateway.harness import Bench, Memory, run


def test_a_body_that_is_announced_too_long_is_refused_before_it_comes() -> None:
    """Nothing was said until the last byte had come, or the time for it was over."""

    async def work() -> None:
        async with Bench(Memory(), settings=ServerSettings(most_bytes=1000)) as bench:
            parts = urlsplit(bench.url)
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(b"POST /v1/embeddings HTTP/1.1\r\nHost: h\r\nContent-Length: 9000\r\n\r\n")
            assert b" 413 " in await reader.readline()
            writer.close()
            await writer.wait_closed()

    run(work())


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ("Content-Length: 9000", 401),
        ("{key}\r\nContent-Length: 9000", 413),
        ("{key}\r\nContent-Length: 9", 415),
        ("{key}\r\nContent-Length: 9\r\n{json}", 100),
        ("{key}\r\nContent-Length: 9\r\n{json}\r\nExpect: x", 417),
    ],
)
def test_who_waits_with_its_body_is_refused_before_it_is_asked_for(lines: str, status: int) -> None:
    """`100 Continue` came first, whatever length was announced and whatever key was given."""

    async def work() -> None:
        small = ServerSettings(most_bytes=1000)
        async with Bench(Memory(), settings=small, keys=OneKey("the-key-1")) as bench:
            parts = urlsplit(bench.url)
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            given = lines.format(
                key="Authorization: Bearer the-key-1", json="Content-Type: application/json"
            )
            more = "" if "Expect" in lines else "Expect: 100-continue\r\n"
            head = f"POST /v1/embeddings HTTP/1.1\r\nHost: h\r\n{more}{given}\r\n\r\n"
            writer.write(head.encode())
            assert f" {status} ".encode() in await reader.readline()
            if status == 100:
                assert await reader.readline() == b"\r\n"
                writer.write(b'{"a": 12}')
                assert b" 400 " in await reader.readline()
            writer.close()
            await writer.wait_closed()

    run(work())


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_body_that_does_not_decompress_is_the_client_s_fault(encoding: str) -> None:
    """It was answered with 500, and counted nowhere."""

    async def work() -> None:
        async with Bench(Memory()) as bench:
            reply = await bench.post(b"not compressed", {"Content-Encoding": encoding})
            assert (reply.status, reply.body["error"]["code"]) == (400, "bad_body")
            page = (await bench.get("metrics"))[1]
            assert 'requests_total{model="unknown",status="400"} 1.0' in page

    run(work())


BODY = b'{"model":"m","input":"' + b"a long text " * 40 + b'"}'
PACKED = gzip.compress(BODY, mtime=0)


def _bare(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("gzip", PACKED, 200),
        ("X-GZIP", PACKED, 200),
        ("deflate", zlib.compress(BODY), 200),
        ("deflate", _bare(BODY), 200),
        ("identity", BODY, 200),
        ("gzip", PACKED[:-1], 400),
        ("gzip", PACKED[:-8], 400),
        ("gzip", PACKED[:-8] + bytes(8), 400),
        ("deflate", zlib.compress(BODY)[:-4], 400),
        ("gzip", PACKED + b"more", 400),
        ("gzip", gzip.compress(BODY + b" " * 520, mtime=0), 413),
        ("gzip", gzip.compress(b" " * 1_000_000, mtime=0), 413),
        ("br", BODY, 415),
        ("gzip, gzip", gzip.compress(PACKED, mtime=0), 415),
    ],
)
def test_a_compressed_body_is_whole_or_refused(encoding: str, body: bytes, status: int) -> None:
    """One without its checksum, cut off on its way, was answered."""

    async def work() -> None:
        async with Bench(Memory(), settings=ServerSettings(most_bytes=1000)) as bench:
            reply = await bench.post(body, {"Content-Encoding": encoding})
            assert reply.status == status, reply.body

    run(work())


def test_a_compressed_body_counts_as_what_it_becomes() -> None:
    """Bodies at once were bounded by what came: a thousandth of what they took."""

    async def work() -> None:
        few = ServerSettings(most_open_bytes=1500)
        async with Bench(Memory(), settings=few) as bench:
            bench.server.gate = asyncio.Event()
            packed = {"Content-Encoding": "gzip"}
            large = b'{"model":"m","input":"%b"}' % (b"a" * 1000)
            first = asyncio.create_task(bench.post(gzip.compress(large), packed))
            await bench.server.wait_for_calls(1)
            assert (await bench.post(gzip.compress(large), packed)).status == 429
            bench.server.gate.set()
            assert (await first).status == 200
            assert (await bench.post(gzip.compress(large), packed)).status == 200

    run(work())


def test_a_body_that_does_not_come_is_given_up() -> None:
    async def work() -> None:
        async with Bench(Memory(), settings=ServerSettings(body_s=0.2)) as bench:
            host, port = bench.url.removeprefix("http://").rstrip("/").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            head = "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
            head += "Content-Type: application/json\r\n\r\n{"
            writer.write(head.encode())
            assert b" 408 " in await reader.readline()
            assert b'"code":"body_too_slow"' in await reader.readuntil(b"}}")
            writer.close()

    run(work())
