"""The end of a gateway: asked for by a signal, and over within its time, whatever hangs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Coroutine
from typing import TYPE_CHECKING, Final, TypeVar

from launcher.gateway.problems import RequestError

if TYPE_CHECKING:
    from aiohttp import web

LAST_S: Final = 2.0
"""Of the time to finish requests: for sending a refusal to those that have no answer by then."""
RETRY_S: Final = 5
T = TypeVar("T")


class UnderWay:
    """The requests that have no answer yet."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self._given_up = False

    async def answered(self, answer: Awaitable[T]) -> T:
        """The answer of one request.

        Raises:
            RequestError: 503: the gateway ends, and waits for it no longer.
        """
        task = asyncio.current_task()
        assert task is not None, "requests are answered by tasks"
        self._tasks.add(task)
        try:
            return await answer
        except asyncio.CancelledError:
            if not self._given_up:
                raise
            task.uncancel()
            text = "the gateway ends, and the server did not answer in time"
            raise RequestError(503, "stopping", text, retry_after=RETRY_S) from None
        finally:
            self._tasks.discard(task)

    def give_up(self) -> None:
        """Have all of them refused now: whoever waits is told, and can ask elsewhere."""
        self._given_up = True
        for task in self._tasks:
            task.cancel()


class Ending:
    """When to end, and whether to wait for what is under way."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self._hurry = asyncio.Event()

    def on_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        """SIGTERM and SIGINT end it, and SIGHUP, which a closed terminal sends, but to nohup."""
        loop.add_signal_handler(signal.SIGTERM, self.asked.set)
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGHUP, self.asked.set)

    def _interrupted(self) -> None:
        # Only Ctrl-C says it twice on purpose: two managers may each send their SIGTERM.
        if self.asked.is_set():
            self._hurry.set()
        self.asked.set()

    async def wait_for(self, work: Coroutine[None, None, None], limit_s: float) -> None:
        """Until `work` is done, its time is over, or nobody wants to wait any more."""
        tasks = {asyncio.ensure_future(work), asyncio.ensure_future(self._hurry.wait())}
        first = asyncio.FIRST_COMPLETED
        await asyncio.wait(tasks, timeout=max(0.0, limit_s), return_when=first)
        for task in tasks:
            task.cancel()

    async def enforce(self, server: web.Server, under_way: UnderWay, limit_s: float) -> None:
        """Refuse what has no answer shortly before the end of `limit_s`, then close all."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), max(0.0, limit_s - LAST_S))
        under_way.give_up()
        await asyncio.sleep(LAST_S)
        for connection in server.connections:
            connection.force_close()
