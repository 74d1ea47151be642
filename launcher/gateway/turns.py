"""Whose turn it is to ask a server: who waits for an answer goes before who fills an index."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from launcher.gateway.request import Priority

BULK_SHARE: Final = 4
"""Bulk calls have one of so many places at once: the queue within the server stays short for the
others, which could not overtake them there."""
IN_A_ROW: Final = 8
"""Interactive calls that go before a bulk one that waits; then it is its turn."""


class Turns:
    """Places for calls to servers, given to interactive calls first."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.open: dict[Priority, int] = {"interactive": 0, "bulk": 0}
        """Calls that have a place."""
        self._waiting: dict[Priority, deque[asyncio.Future[None]]] = {
            "interactive": deque(),
            "bulk": deque(),
        }
        self._in_a_row = 0

    @property
    def free(self) -> int:
        """Places that nobody has."""
        return self.places - sum(self.open.values())

    def free_for(self, priority: Priority) -> int:
        """Places that calls of this priority may have now."""
        if priority == "interactive":
            return self.free
        return min(self.free, max(0, self._most_bulk - self.open["bulk"]))

    @property
    def _most_bulk(self) -> int:
        return max(1, self.places // BULK_SHARE)

    async def take(self, priority: Priority) -> None:
        """Wait for a place; whoever takes one gives it back."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting[priority].append(turn)
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(priority)
            raise

    def give(self, priority: Priority) -> None:
        """Give a place back."""
        self.open[priority] -= 1
        self._serve()

    def add(self, places: int) -> None:
        """Have more places; fewer, where it is negative: who has one keeps it."""
        self.places += places
        self._serve()

    def _serve(self) -> None:
        while self.free > 0 and (priority := self._next()) is not None:
            self._in_a_row = self._in_a_row + 1 if priority == "interactive" else 0
            self.open[priority] += 1
            self._waiting[priority].popleft().set_result(None)

    def _next(self) -> Priority | None:
        for queue in self._waiting.values():
            while queue and queue[0].cancelled():
                queue.popleft()
        bulk = bool(self._waiting["bulk"]) and self.open["bulk"] < self._most_bulk
        if self._waiting["interactive"] and not (bulk and self._in_a_row >= IN_A_ROW):
            return "interactive"
        return "bulk" if bulk else None
