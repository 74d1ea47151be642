"""What calls hold of the guard's bounds, and who makes way when they are reached.

Whoever sends a body slowly, or not at all, must not keep others out: beyond the bounds of bytes and
calls a body that has been on its way for longer than any that is really sent is given up first.
"""

import asyncio

from qlaunch_guard.refusal import busy

GRACE_SECONDS = 2.0
"""A body that is still arriving after these makes way for others: on loopback the largest takes
milliseconds, and over a network of 20 Mbit/s two seconds."""


class Held:
    """What one call holds of the guard's bounds, given back by `release`."""

    def __init__(self, guard, free):
        """`free`: it is never refused, nor made to make way."""
        self._guard = guard
        self._free = free
        self.inputs = self.bytes = self.tokens = self.came = 0
        self._limit = None
        self._since = 0.0
        self.made_way = False
        """Whether it was given up for another."""

    def arrives(self, limit):
        """Its body begins to come, until `limit` (an asyncio.Timeout) ends that."""
        self._limit = limit
        self._since = asyncio.get_running_loop().time()
        guard = self._guard
        if self._free:
            return
        guard.arriving[self] = None
        if len(guard.arriving) > guard.settings.open_calls:
            # The oldest, however young: a call that is not slow has come whole by now.
            self._give_up(next(iter(guard.arriving)))

    def arrived(self):
        """Its body is whole, or will not come."""
        self._guard.arriving.pop(self, None)

    def add_bytes(self, count):
        """Hold more of the bodies' memory, or refuse."""
        guard = self._guard
        if self.made_way:
            raise busy(closing=True)
        self.bytes += count
        self.came += count
        guard.bytes += count
        while guard.bytes > guard.settings.open_bytes and not self._free:
            self._make_way(max(guard.arriving, key=lambda held: held._late() * held.bytes))

    def _late(self):
        return asyncio.get_running_loop().time() - self._since > GRACE_SECONDS

    def _make_way(self, other):
        """Give up another call's body for this one, or refuse this one."""
        if other is self or not other._late():
            raise busy()
        self._give_up(other)

    def _give_up(self, other):
        other.made_way = True
        other.arrived()
        self._guard.bytes -= other.bytes
        other.bytes = 0
        if not other._limit.expired():
            other._limit.reschedule(asyncio.get_running_loop().time())

    def add_inputs(self, count, tokens):
        """Hold so many inputs and tokens, or refuse. One call alone is never refused."""
        guard, most = self._guard, self._guard.settings
        others = guard.inputs
        self.inputs += count
        self.tokens += tokens
        guard.inputs += count
        guard.tokens += tokens
        over = guard.inputs > most.open_inputs or guard.tokens > most.open_tokens
        if others and over and not self._free:
            raise busy()

    def release(self):
        """Give everything back."""
        self._guard.bytes -= self.bytes
        self._guard.inputs -= self.inputs
        self._guard.tokens -= self.tokens
