"""Calls into a library that may never return, made in a thread of their own with a time limit."""

from __future__ import annotations

import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class _Job(Generic[T]):
    def __init__(self, work: Callable[[], T]) -> None:
        self.work = work
        self.done = threading.Event()
        self.result: T | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.result = self.work()
        except Exception as error:  # noqa: BLE001 - handed to the caller, who knows what it means
            self.error = error


class BoundedCaller:
    """Runs jobs one after another in one daemon thread; a job that hangs costs only a wait.

    For one caller at a time. While a job hangs, further calls fail at once with TimeoutError; when
    it returns at last, its result is dropped and calls work again.
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job[object] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._busy = False
        self.spent_s = 0.0
        """CPU seconds that the jobs have taken, all together."""

    def call(self, work: Callable[[], T], timeout_s: float) -> T:
        """What `work()` returns.

        Raises:
            TimeoutError: no result within `timeout_s`, or an earlier job still hangs.
            Exception: whatever `work` raised.
        """
        if self._busy:
            raise TimeoutError
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="bounded-caller", daemon=True)
            self._thread.start()
        job: _Job[T] = _Job(work)
        self._busy = True
        self._jobs.put(job)  # type: ignore[arg-type]  # the queue never looks at the result
        if not job.done.wait(timeout_s):
            raise TimeoutError
        if job.error is not None:
            raise job.error
        return job.result  # type: ignore[return-value]  # set, since there was no error

    def close(self) -> None:
        """Let the thread end once it is free; does not wait for it."""
        self._jobs.put(None)

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            before = time.thread_time()
            job.run()
            self.spent_s += time.thread_time() - before
            self._busy = False
            job.done.set()
