"""Small calls of many requests joined into one: it costs an engine less than as many of one text.

Nobody waits for company: a call is held only while many others of its kind are under way, and
goes with all that came meanwhile. It waits here instead of in the server's own queue. Of few calls
the engine makes its batches better by itself (docs/decisions.md).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from typing import Final

import msgspec

from launcher.gateway.identity import Input
from launcher.gateway.problems import RequestError
from launcher.gateway.replica import DOWN, TIMEOUT, Made, Part

AT_ONCE: Final = 2
"""Calls to one server where many wait: while it computes one it reads the next."""
FEW: Final = 8
"""Parts under way at one server that are not held."""
ID_BYTES: Final = 7
"""Of a token id in JSON, about."""
_ALL_ALIKE: Final = frozenset({DOWN, TIMEOUT})
"""Failures that say nothing of the inputs: each call alone would end so, too."""
Send = Callable[[Part], Awaitable[Made]]


class _Rider(msgspec.Struct):
    """A part that waits."""

    part: Part
    made: asyncio.Future[Made]
    context: Context


class _Lane(msgspec.Struct):
    """Parts that may go together."""

    flying: int = 0
    """Calls under way."""
    parts: int = 0
    """Those that are under way in them."""
    queue: deque[_Rider] = msgspec.field(default_factory=deque)


class Joiner:
    """Joins parts that differ in nothing but their inputs."""

    def __init__(self, send: Send, *, most_inputs: int, most_bytes: int) -> None:
        """`send` makes one call; the bounds are of one."""
        self._send = send
        self._most_inputs, self._most_bytes = most_inputs, most_bytes
        self._lanes: dict[tuple[object, ...], _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.servers = 1
        self.riding = 0
        """Parts under way in another's call."""

    def takes(self, part: Part) -> bool:
        """Whether a part may be joined: what goes past the cache may not, nor what is large."""
        call = part.call
        plain = part.space is not None and not call.extra and call.user is None
        return plain and 2 * len(part.inputs) <= self._most_inputs

    async def ask(self, part: Part) -> Made:
        """The vectors of a part that `takes` took.

        Raises:
            RequestError, IdentityChangedError: as a call of its own would.
        """
        key = (part.space, part.call.dimensions, part.priority, type(part.inputs[0]))
        lane = self._lanes.setdefault(key, _Lane())
        if self._free(lane) and not lane.queue:
            lane.flying += 1
            lane.parts += 1
            try:
                return await self._send(part)
            finally:
                self._landed(key, lane, 1)
        rider = _Rider(part, asyncio.get_running_loop().create_future(), copy_context())
        lane.queue.append(rider)
        return await rider.made

    def _free(self, lane: _Lane) -> bool:
        return lane.flying < AT_ONCE * self.servers or lane.parts < FEW * self.servers

    def _landed(self, key: tuple[object, ...], lane: _Lane, parts: int) -> None:
        """Let those go that waited for it."""
        lane.flying -= 1
        lane.parts -= parts
        while self._free(lane) and (riders := self._next(lane)):
            lane.flying += 1
            lane.parts += len(riders)
            going = self._fly(key, lane, riders)
            task = asyncio.get_running_loop().create_task(going, context=riders[0].context)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if not lane.flying and self._lanes.get(key) is lane:
            del self._lanes[key]

    def _next(self, lane: _Lane) -> list[_Rider]:
        riders: list[_Rider] = []
        inputs = size = 0
        while lane.queue:
            rider = lane.queue[0]
            count, weight = len(rider.part.inputs), bytes_of(rider.part.inputs)
            full = inputs + count > self._most_inputs or size + weight > self._most_bytes
            if riders and full:
                break
            lane.queue.popleft()
            if not rider.made.cancelled():
                riders.append(rider)
                inputs, size = inputs + count, size + weight
        return riders

    async def _fly(self, key: tuple[object, ...], lane: _Lane, riders: list[_Rider]) -> None:
        try:
            for rider in await self._together(riders):
                await self._deliver(rider)
        finally:
            self._landed(key, lane, len(riders))

    async def _together(self, riders: list[_Rider]) -> list[_Rider]:
        """Make one call for all of them; those that each need their own."""
        if len(riders) == 1:
            return riders
        first = riders[0].part
        inputs = [item for rider in riders for item in rider.part.inputs]
        self.riding += len(riders) - 1
        try:
            made = await self._send(msgspec.structs.replace(first, inputs=inputs))
        except RequestError as failed:
            # One input that a server refuses must not fail the others' requests.
            return [] if failed.code in _ALL_ALIKE and _fail(riders, failed) else riders
        except Exception as failed:  # noqa: BLE001 - whoever waits must hear of it
            _fail(riders, failed)
            return []
        finally:
            self.riding -= len(riders) - 1
        if made.each is None:
            return riders
        begin = 0
        for rider in riders:
            end = begin + len(rider.part.inputs)
            each = made.each[begin:end]
            mine = Made(vectors=made.vectors[begin:end], tokens=sum(each), each=each)
            _answer(rider, mine)
            begin = end
        return []

    async def _deliver(self, rider: _Rider) -> None:
        try:
            _answer(rider, await self._send(rider.part))
        except Exception as failed:  # noqa: BLE001 - whoever waits must hear of it
            _fail([rider], failed)


def _answer(rider: _Rider, made: Made) -> None:
    if not rider.made.done():
        rider.made.set_result(made)


def _fail(riders: list[_Rider], failed: Exception) -> bool:
    for rider in riders:
        if not rider.made.done():
            rider.made.set_exception(failed)
    return True


def bytes_of(inputs: Sequence[Input]) -> int:
    """Bytes of a call's inputs, about."""
    return sum(
        len(item.encode()) if isinstance(item, str) else len(item) * ID_BYTES for item in inputs
    )
