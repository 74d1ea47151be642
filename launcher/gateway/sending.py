"""An answer that says when it has been sent, and keeps its bytes no longer.

aiohttp keeps a connection's last answer until the next request comes on it, or until it closes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

from aiohttp import web


class SentResponse(web.Response):
    """A response in JSON whose end is told once: sent, given up, or never begun."""

    def __init__(self, body: bytes, headers: dict[str, str], sent: Callable[[], object]) -> None:
        """`sent` is called when the client has taken it, but for what the kernel still holds."""
        super().__init__(body=body, headers={"Content-Type": "application/json", **headers})
        self._sent = weakref.finalize(self, sent)

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the rest, waiting until the client takes it."""
        try:
            await super().write_eof(data)
        finally:
            self.body = None
            self._sent()
