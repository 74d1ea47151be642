"""`GET /metrics` from the supervisor's own loop: no thread, and nobody can block it.

Everything is bounded: connections, bytes of a request, the time of each. A client that sends a byte
a second, reads nothing, or comes a thousand times only waits for its own deadline.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Callable
from typing import Final

from launcher.service import ports
from launcher.service.supervisor.event_loop import Loop
from launcher.service.supervisor.metrics_text import CONTENT_TYPE

CONNECTIONS: Final = 8
"""More wait in the kernel's queue."""
REQUEST_BYTES: Final = 8192
DEADLINE_S: Final = 2.0
"""From a connection's beginning to its last byte."""
RETRY_S: Final = 1.0
"""Where no descriptor was left for a connection."""

_LINE = re.compile(rb"([A-Z]{1,10}) (\S{1,200}) HTTP/1\.[01]")
_NAMES = re.compile(rb"(?im)^host:[ \t]*(?:127\.0\.0\.1|localhost|\[::1\])(?::\d{1,5})?[ \t]*\r?$")
_HOST = re.compile(rb"(?im)^host:")


class Scrape:
    """The listener and its connections."""

    def __init__(
        self, loop: Loop, port: int, text: Callable[[], str], host: str = "127.0.0.1"
    ) -> None:
        """Listen on `port` of `host`, 0 for a free one; `text` makes each answer.

        Raises:
            OSError: the port is taken, or no descriptor is left.
            QlaunchError: `bad_host` (exit 2): the name does not resolve.
        """
        self._loop, self._text = loop, text
        self._open: set[_Connection] = set()
        family, address = ports.resolve(host, port)
        self._loopback = ipaddress.ip_address(address.partition("%")[0]).is_loopback
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((address, port))
            self._socket.listen(16)
        except OSError:
            self._socket.close()
            raise
        self.url: Final = ports.url(host, self._socket.getsockname()[1], "/metrics")
        self._watch()

    def close(self) -> None:
        """Listen no more, and drop who is connected."""
        for connection in list(self._open):
            connection.close()
        self._open.clear()
        if self._socket.fileno() >= 0:
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()

    def _watch(self) -> None:
        if self._socket.fileno() >= 0 and len(self._open) < CONNECTIONS:
            self._loop.watch(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            client, _ = self._socket.accept()
        except (BlockingIOError, ConnectionError, InterruptedError):
            return
        except OSError:  # no descriptor left: the listener stays readable, so look away for a while
            self._loop.unwatch(self._socket.fileno())
            self._loop.call_later(RETRY_S, self._watch)
            return
        client.setblocking(False)
        connection = _Connection(
            self._loop, client, self._text, self._gone, loopback=self._loopback
        )
        self._open.add(connection)
        if len(self._open) >= CONNECTIONS:
            self._loop.unwatch(self._socket.fileno())

    def _gone(self, connection: _Connection) -> None:
        self._open.discard(connection)
        self._watch()


class _Connection:
    """One request and its answer; the connection ends with it."""

    def __init__(
        self,
        loop: Loop,
        client: socket.socket,
        text: Callable[[], str],
        gone: Callable[[_Connection], object],
        *,
        loopback: bool,
    ) -> None:
        self._loop, self._socket, self._text, self._gone = loop, client, text, gone
        self._loopback = loopback
        self._request = b""
        self._answer = memoryview(b"")
        self._timer = loop.call_later(DEADLINE_S, self._over)
        loop.watch(client.fileno(), self._readable)

    def close(self) -> None:
        """Let go of it, whatever is still unsent."""
        self._timer.cancel()
        if self._socket.fileno() >= 0:
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()

    def _over(self) -> None:
        self.close()
        self._gone(self)

    def _readable(self) -> None:
        try:
            data = self._socket.recv(REQUEST_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._over()
            return
        self._request += data
        whole = b"\r\n\r\n" in self._request
        if whole or len(self._request) >= REQUEST_BYTES:
            self._answer = memoryview(self._reply() if whole else _answer("431 Too Large", b""))
            self._loop.watch(self._socket.fileno(), self._writable, write=True)

    def _reply(self) -> bytes:
        head = self._request.partition(b"\r\n\r\n")[0]
        line = _LINE.match(head)
        if line is None:
            return _answer("400 Bad Request", b"")
        if self._loopback and _HOST.search(head) and not _NAMES.search(head):
            # A page in a browser may have its name resolve to this machine.
            return _answer("403 Forbidden", b"ask for 127.0.0.1 or localhost\n")
        if line[2].partition(b"?")[0] != b"/metrics":
            return _answer("404 Not Found", b"there is /metrics\n")
        if line[1] not in {b"GET", b"HEAD"}:
            return _answer("405 Method Not Allowed", b"", "Allow: GET, HEAD\r\n")
        body = self._text().encode("utf-8", "replace")
        return _answer("200 OK", body, head_only=line[1] == b"HEAD")

    def _writable(self) -> None:
        try:
            self._answer = self._answer[self._socket.send(self._answer) :]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._over()
            return
        if not self._answer:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
            self._over()


def _answer(status: str, body: bytes, more: str = "", *, head_only: bool = False) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n"
        f"X-Content-Type-Options: nosniff\r\n{more}Connection: close\r\n\r\n"
    )
    return head.encode() + (b"" if head_only else body)
