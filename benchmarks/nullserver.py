"""`python nullserver.py TEXTS DIMENSIONS TOKENS`: answers every request with the same vectors.

It reads requests as far as it must to find their ends, and writes one prepared answer, so that a
client that asks it is alone with its own cost. Prints its port; ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import sys

HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\nserver: null\r\n"
    b"content-length: %d\r\ncontent-type: application/json\r\n\r\n"
)


def answer(texts: int, dimensions: int, tokens: int) -> bytes:
    """A whole response of `texts` vectors, as SGLang words it."""
    numbers = [(-1.0) ** at / dimensions**0.5 for at in range(dimensions)]
    vector = base64.b64encode(struct.pack(f"<{dimensions}f", *numbers)).decode()
    rows = [{"embedding": vector, "index": index, "object": "embedding"} for index in range(texts)]
    usage = {"prompt_tokens": texts * tokens, "total_tokens": texts * tokens}
    body = json.dumps({"data": rows, "model": "null", "object": "list", "usage": usage}).encode()
    return HEAD % len(body) + body


class Null(asyncio.Protocol):
    """One connection."""

    def __init__(self, whole: bytes) -> None:
        self._whole = whole
        self._seen = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer when the request is whole: one at a time, as clients that wait send them."""
        assert self._transport is not None
        self._seen += data
        end = self._seen.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._seen[:end]).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if len(self._seen) >= end + 4 + length:
            self._seen.clear()
            self._transport.write(self._whole)


async def main() -> None:
    """Serve until stdin ends."""
    whole = answer(*(int(word) for word in sys.argv[1:4]))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Null(whole), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
