"""One thread, one loop: descriptors, timers and signals in; calls out.

The supervisor has no threads of its own on purpose. `PR_SET_PDEATHSIG` is tied to the thread that
forked, forking beside threads at work can deadlock the child, and a state that one loop owns needs
no locks. (The recorder asks NVML through a thread, which idles whenever the loop runs.)
"""

from __future__ import annotations

import heapq
import itertools
import os
import selectors
import signal
import time
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any

Call = Callable[[], object]


class Timer:
    """One call in the future; `cancel` makes it not happen."""

    __slots__ = ("call", "when")

    def __init__(self, when: float, call: Call) -> None:
        self.when = when
        self.call: Call | None = call

    def cancel(self) -> None:
        """Make the call not happen."""
        self.call = None


class Loop:
    """Waits for whatever comes first and calls what was asked for.

    Time is the monotonic clock: the time of day may jump, deadlines may not.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._handlers: dict[int, Call] = {}
        self._pending: list[int] = []
        self._restore: list[tuple[int, Any]] = []
        self._old_wakeup = -1
        self._wake: tuple[int, int] | None = None

    def call_later(self, delay_s: float, call: Call) -> Timer:
        """Have `call` called once, `delay_s` from now."""
        timer = Timer(time.monotonic() + delay_s, call)
        heapq.heappush(self._timers, (timer.when, next(self._order), timer))
        return timer

    def watch(self, fd: int, call: Call, *, write: bool = False) -> None:
        """Have `call` called whenever `fd` can be read (or written), until `unwatch`."""
        event = selectors.EVENT_WRITE if write else selectors.EVENT_READ
        if fd in self._selector.get_map():
            self._selector.modify(fd, event, call)
        else:
            self._selector.register(fd, event, call)

    def unwatch(self, fd: int) -> None:
        """Stop watching; call it before closing the descriptor."""
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def drive(self, steps: Generator[float, None, Any]) -> None:
        """Run a generator that yields the seconds to wait before its next step."""
        delay = next(steps, None)
        if delay is not None:
            self.call_later(delay, lambda: self.drive(steps))

    def on_signals(self, handlers: dict[int, Call]) -> None:
        """From now on have signals call these from the loop; a handler itself only takes note.

        A signal that comes a hundred times before the loop turns is one call.
        """
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wake = (reading, writing)
        self._old_wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        self._handlers = handlers
        for signum in handlers:
            self._restore.append((signum, signal.signal(signum, self._note)))
        self.watch(reading, self._woken)

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        if signum not in self._pending:
            self._pending.append(signum)

    def _woken(self) -> None:
        assert self._wake is not None
        try:
            while os.read(self._wake[0], 4096):
                pass
        except BlockingIOError:
            pass

    def turn(self) -> None:
        """Wait for the next event and handle it, then the timers that are due, then signals."""
        for key, _ in self._selector.select(self._timeout()):
            now = self._selector.get_map().get(key.fd)
            if now is not None and now.data is key.data:  # an earlier call may have unwatched it
                key.data()
        while self._timers and self._timers[0][0] <= time.monotonic():
            timer = heapq.heappop(self._timers)[2]
            if timer.call is not None:
                timer.call()
        while self._pending:
            self._handlers[self._pending.pop(0)]()

    def _timeout(self) -> float | None:
        if self._pending:
            return 0.0
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return max(0.0, self._timers[0][0] - time.monotonic())

    def close(self) -> None:
        """Put the signal handlers back and close the loop's own descriptors."""
        for signum, handler in reversed(self._restore):
            signal.signal(signum, handler)
        self._restore.clear()
        if self._wake is not None:
            signal.set_wakeup_fd(self._old_wakeup)
            for fd in self._wake:
                os.close(fd)
            self._wake = None
        self._selector.close()


class Timers:
    """Timers by name: a new one of a name replaces the old one."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._timers: dict[str, Timer] = {}

    def after(self, name: str, delay_s: float, call: Call) -> None:
        """Have `call` called once, `delay_s` from now."""
        self.cancel(name)
        self._timers[name] = self._loop.call_later(delay_s, call)

    def cancel(self, name: str) -> None:
        """Make the call of that name not happen, if there is one."""
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def cancel_all(self) -> None:
        """Make none happen."""
        for name in list(self._timers):
            self.cancel(name)
