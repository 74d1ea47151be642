"""Commands that start something and stop it themselves: one way out, whatever the signal."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def ends_by_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP end the command as Ctrl-C does, so that what it started is stopped."""

    def interrupt(_signum: int, _frame: FrameType | None) -> None:
        if callable(signal.getsignal(signal.SIGINT)):
            # A running event loop has a handler of its own there, which ends its tasks in order.
            signal.raise_signal(signal.SIGINT)
        else:  # SIGINT is ignored, as a shell does for what it starts in the background
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
