"""An answer that says when it has been sent, and keeps its bytes no longer.

aiohttp keeps a connection's last answer until the next request comes on it, or until it closes.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web

    Sent = Callable[[], object]


def answer(body: bytes, headers: dict[str, str], sent: Sent) -> web.Response:
    """A response in JSON whose end is told once: sent, given up, or never begun.

    Args:
        body: of it.
        headers: more than its type.
        sent: called when the client has taken it, but for what the kernel still holds.
    """
    return _maker()(body, {"Content-Type": "application/json", **headers}, sent)


@functools.cache
def _maker() -> Callable[[bytes, dict[str, str], Sent], web.Response]:
    """The class of such responses; aiohttp is imported where one is made, not before."""
    from aiohttp import web

    class SentResponse(web.Response):
        """Tells when it has been sent."""

        def __init__(self, body: bytes, headers: dict[str, str], sent: Sent) -> None:
            super().__init__(body=body, headers=headers)
            self._sent = weakref.finalize(self, sent)

        async def write_eof(self, data: bytes = b"") -> None:
            """Send the rest, waiting until the client takes it."""
            try:
                await super().write_eof(data)
            finally:
                self.body = None
                self._sent()

    return SentResponse
