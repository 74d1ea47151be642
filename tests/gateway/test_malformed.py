"""What is no HTTP: refused in JSON like all else, and nothing of it quoted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.gateway.harness import run
from tests.gateway.test_connections import LOOK, connected

SECRET = "a-key-that-nobody-may-read"
HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
MALFORMED: dict[str, bytes] = {
    "no HTTP": SECRET.encode() + b"\r\n\r\n",
    "another version": f"GET /{SECRET} HTTP/9.9\r\nHost: h\r\n\r\n".encode(),
    "a method": f"{SECRET}@ / HTTP/1.1\r\nHost: h\r\n\r\n".encode(),
    "a header's name": f"GET / HTTP/1.1\r\nHost: h\r\n{SECRET} : x\r\n\r\n".encode(),
    "a header's value": f"GET / HTTP/1.1\r\nHost: h\r\nX: {SECRET}\x00\r\n\r\n".encode(),
    "a length": HEAD + f"Content-Length: {SECRET}\r\n\r\n".encode(),
    "two lengths": HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\na",
    "a length and chunks": HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\na",
    "a path": f"GET http://[{SECRET} HTTP/1.1\r\nHost: h\r\n\r\n".encode(),
    "a long path": f"GET /{SECRET * 8000} HTTP/1.1\r\nHost: h\r\n\r\n".encode(),
    "a long header": f"GET / HTTP/1.1\r\nHost: h\r\nX: {SECRET * 8000}\r\n\r\n".encode(),
    "a chunk": HEAD + f"Transfer-Encoding: chunked\r\n\r\n{SECRET}\r\n".encode(),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_no_http_is_refused_in_json_and_not_quoted(case: str) -> None:
    """It was plain text, and quoted the line that could not be read."""

    async def work() -> None:
        async with connected() as client:
            client.writer.write(MALFORMED[case])
            head, _, body = (await client.rest()).partition(b"\r\n\r\n")
            assert head.split(b" ")[1] == b"400"
            assert b"application/json" in head
            error: dict[str, Any] = json.loads(body)["error"]
            assert (error["type"], error["code"]) == ("invalid_request_error", "bad_http")
            assert SECRET not in (head + body).decode()

    run(work())


def test_the_connection_of_a_request_that_is_right_stays() -> None:
    async def work() -> None:
        async with connected() as client:
            for _ in range(2):
                client.writer.write(LOOK)
                assert b"200 OK" in await client.answer()

    run(work())
