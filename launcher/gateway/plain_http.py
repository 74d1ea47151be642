"""Calls by plain HTTP/1.1 over connections that stay open: a tenth of a general client's time.

It reads what every server of embeddings answers: one head with a `Content-Length`, then the body.
Whatever else comes (chunks, an encoded body, an interim answer) it does not understand, and says so
at once: a general client then makes the call.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from typing import Final, cast
from urllib.parse import urlsplit

import msgspec

HEAD_BYTES: Final = 32 << 10
_CONNECT_S: Final = 5.0
_FIRST_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([2-5][0-9]{2})(?: [^\r\n]*)?")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n]*)")
_LENGTH: Final = re.compile(r"[0-9]{1,12}")


class NotPlainError(Exception):
    """The answer is of a kind that only a general client reads; the call may be repeated there."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    """By name in small letters."""
    body: bytes


class PlainHttp:
    """Connections to servers by plain HTTP."""

    def __init__(self, idle_s: float, most_bytes: int) -> None:
        """`idle_s`: one that lay idle for so long is not used again; `most_bytes` of a body."""
        self._idle_s = idle_s
        self._most_bytes = most_bytes
        self._idle: dict[tuple[str, int], list[_Connection]] = {}

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """The answer to one POST; a call that is given up closes its connection.

        Raises:
            NotPlainError: it is not understood.
            OSError: no connection, or it ended before the answer did.
        """
        parts = urlsplit(url)
        place = (parts.hostname or "", parts.port or 80)
        connection = self._taken(place) or await self._opened(place)
        whole = False
        try:
            answer = await connection.ask(_request(parts.path, parts.netloc, headers, body))
            whole = True
        finally:
            if whole and connection.reusable:
                connection.idle_since = time.monotonic()
                self._idle.setdefault(place, []).append(connection)
            else:
                connection.close()
        return answer

    def close(self) -> None:
        """Close what lies idle."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    def _taken(self, place: tuple[str, int]) -> _Connection | None:
        """The one that was used last, where it is still good; older ones than it are closed."""
        connections = self._idle.get(place, [])
        while connections:
            connection = connections.pop()
            if connection.reusable and time.monotonic() - connection.idle_since < self._idle_s:
                return connection
            connection.close()
        return None

    async def _opened(self, place: tuple[str, int]) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_S):
                _transport, connection = await loop.create_connection(
                    lambda: _Connection(self._most_bytes), *place
                )
        except TimeoutError as error:
            raise ConnectionError("no connection in time") from error
        return connection


class _Connection(asyncio.Protocol):
    """One connection, of one call at a time."""

    def __init__(self, most_bytes: int) -> None:
        self.reusable = False
        self.idle_since = 0.0
        self._most_bytes = most_bytes
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._buffer = bytearray()
        self._head: tuple[int, dict[str, str], int] | None = None
        """Status, headers and the length of the body."""

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        """Send, and have the answer."""
        assert self._transport is not None
        self.reusable, self._head = False, None
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            self._fail(ConnectionResetError("the connection is closed"))
        else:
            self._transport.write(request)
        return self._answer

    def close(self) -> None:
        """Drop the connection."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way out."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits gets no answer."""
        self.reusable = False
        self._fail(exc if isinstance(exc, OSError) else ConnectionResetError("it was closed"))

    def data_received(self, data: bytes) -> None:
        """Take what came, and answer when all is there."""
        if self._answer is None or self._answer.done():
            self.close()  # nobody asked for it
            return
        self._buffer += data
        try:
            self._read()
        except NotPlainError as error:
            self._fail(error)

    def _read(self) -> None:
        if self._head is None:
            end = self._buffer.find(b"\r\n\r\n", 0, HEAD_BYTES)
            if end < 0:
                if len(self._buffer) >= HEAD_BYTES:
                    raise NotPlainError("a head without an end")
                return
            self._head = self._understood(bytes(self._buffer[:end]))
            del self._buffer[: end + 4]
        status, headers, length = self._head
        if len(self._buffer) < length:
            return
        if len(self._buffer) > length:
            raise NotPlainError("more than the answer")
        body = bytes(self._buffer)
        self._buffer.clear()
        assert self._answer is not None
        self._answer.set_result(Answer(status=status, headers=headers, body=body))

    def _understood(self, head: bytes) -> tuple[int, dict[str, str], int]:
        """Status, headers and length of the body.

        Raises:
            NotPlainError: there is more to it.
        """
        first, *lines = head.split(b"\r\n")
        line = _FIRST_LINE.fullmatch(first)
        fields = [_FIELD.fullmatch(one) for one in lines]
        if line is None or None in fields:
            raise NotPlainError("no head of HTTP/1.1")
        pairs = [
            (f[1].decode("ascii").lower(), f[2].decode("latin-1").strip()) for f in fields if f
        ]
        headers = dict(pairs)
        length = headers.get("content-length", "")
        names = [name for name, _value in pairs]
        plain = (
            _LENGTH.fullmatch(length)
            and names.count("content-length") == 1
            and "transfer-encoding" not in headers
            and headers.get("content-encoding", "identity") == "identity"
            and line[2] not in (b"204", b"304")
        )
        if not plain or int(length) > self._most_bytes:
            raise NotPlainError("a body without a plain length")
        kept = headers.get("connection", "keep-alive").lower() == "keep-alive"
        self.reusable = line[1] == b"1" and kept
        return int(line[2]), headers, int(length)

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


def _request(path: str, host: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """The bytes of a request; its headers are of ours or were checked: none has an end of line."""
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join(lines)
    if head.count("\r\n") != len(lines) - 1 or head.count("\n") != len(lines) - 1:
        raise NotPlainError("a header with an end of line")
    return head.encode() + b"\r\n\r\n" + body
