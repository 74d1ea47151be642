"""A client's connection: its request's header comes in time, its answer is taken in time, and its
own end does not end ours.

This stands between the socket and aiohttp's handler, which closes a connection as soon as the
client sends nothing more, answered or not (`nc -N`, some clients of HTTP/1.0), and which has one
bound for a header on its way and a connection that nobody uses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from aiohttp import web

_BEGINS_S = 1.0
"""From the end of what a client sends to the beginning of what is done for it, at the latest."""


class Body(Protocol):
    """Of a request."""

    def is_eof(self) -> bool:
        """Whether all of it has come."""
        ...


class Connection(asyncio.Protocol):
    """What happens on one connection, told to aiohttp's handler of it."""

    def __init__(self, inner: asyncio.Protocol, header_s: float, take_s: float) -> None:
        """`header_s`: from the first byte of a request to the end of its header.

        `take_s`: for the client to take a part of an answer; others wait for its room.
        """
        self._inner = inner
        self._header_s, self._take_s = header_s, take_s
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None
        """When a header began that has not ended."""
        self._timer: asyncio.TimerHandle | None = None
        self._taking: asyncio.TimerHandle | None = None
        """Looks whether the client takes its answer."""
        self._body: Body | None = None
        """Of the request that is being answered."""
        self.ended = False
        """Whether the client sends nothing more."""

    def begin(self, body: Body) -> None:
        """A request is being answered."""
        self._since, self._body = None, body
        if self.ended and not body.is_eof():
            self._transport.close()

    def end(self) -> None:
        """It has been; its answer need not be sent yet."""
        self._body = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is of another class
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio."""
        for timer in (self._timer, self._taking):
            if timer is not None:
                timer.cancel()
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Of asyncio."""
        self._wait_for_reader()
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Of asyncio."""
        if self._taking is not None:
            self._taking.cancel()
        self._inner.resume_writing()

    def _wait_for_reader(self) -> None:
        left = self._transport.get_write_buffer_size()
        self._taking = self._loop.call_later(self._take_s, self._look_at_reader, left)

    def _look_at_reader(self, before: int) -> None:
        if self._transport.get_write_buffer_size() < before:
            self._wait_for_reader()
        else:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Of asyncio."""
        if self._since is None and self._body is None:
            self._since = self._loop.time()
            # One timer for many requests: it looks when the header began that is on its way then.
            if self._timer is None:
                self._timer = self._loop.call_later(self._header_s, self._look)
        self._inner.data_received(data)

    def eof_received(self) -> bool:
        """Of asyncio: whether the connection stays, to be answered on."""
        encrypted = self._transport.get_extra_info("sslcontext") is not None
        idle = self._since is None and self._body is None
        cut_off = self._body is not None and not self._body.is_eof()
        if encrypted or idle or cut_off:
            return False
        self.ended = True
        if self._body is None:
            self._loop.call_later(_BEGINS_S, self._close_unasked)
        return True

    def _look(self) -> None:
        self._timer = None
        if self._since is None:
            return
        left = self._since + self._header_s - self._loop.time()
        if self._transport.get_write_buffer_size():
            left = self._header_s  # it waits for the answer before it to be taken
        if left <= 0:
            self._transport.close()
        else:
            self._timer = self._loop.call_later(left, self._look)

    def _close_unasked(self) -> None:
        if self._since is not None:
            self._transport.close()


async def answering(
    request: web.Request, work: Awaitable[web.StreamResponse]
) -> web.StreamResponse:
    """The answer to a request, which its connection knows of meanwhile."""
    transport = request.transport
    connection = None if transport is None else transport.get_protocol()
    if not isinstance(connection, Connection):
        return await work
    connection.begin(request.content)
    try:
        response = await work
    finally:
        connection.end()
    if connection.ended:
        response.force_close()
    return response
