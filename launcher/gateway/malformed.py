"""What is no HTTP is refused in the form of every other error, and nothing of it is quoted.

aiohttp answers such a request by itself, before any handler or middleware: in plain text, with the
line that it could not read, which may hold a key or a text.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from launcher.gateway.problems import RequestError

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.web_protocol import RequestHandler

_CODES: Final = {400: "bad_http", 504: "timed_out"}
TEXTS: Final = {
    400: "this is not a request of HTTP/1.1: its first line, a header or its length cannot be read",
    504: "the request took too long",
}
_TOO_LONG: Final = "the first line of the request, or a header, is too long"


def protocol(server: web.Server) -> RequestHandler:
    """aiohttp's protocol for one connection, with our own form of its errors."""
    made = server()
    # The server makes its protocols of one class, and takes no other.
    made.__class__ = _told_in_json()
    return made


@functools.cache
def _told_in_json() -> type[RequestHandler]:
    from aiohttp import web
    from aiohttp.http_exceptions import LineTooLong
    from aiohttp.web_protocol import RequestHandler

    class Protocol(RequestHandler):
        """Of a connection to a gateway."""

        __slots__ = ()

        def handle_error(
            self,
            request: web.BaseRequest,
            status: int = 500,
            exc: BaseException | None = None,
            message: str | None = None,
        ) -> web.StreamResponse:
            """The answer to what no handler has answered; it ends the connection."""
            super().handle_error(request, status, exc, message)  # which writes it down
            text = TEXTS.get(status, "the gateway failed unexpectedly")
            if isinstance(exc, LineTooLong):
                text = _TOO_LONG
            body = RequestError(status, _CODES.get(status, "unexpected"), text).body()
            response = web.Response(status=status, body=body, content_type="application/json")
            response.force_close()
            return response

    return Protocol
