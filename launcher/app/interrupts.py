"""Commands that start something and stop it themselves: one way out, whatever the signal."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def ends_by_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP end the command as Ctrl-C does, so that what it started is stopped.

    Not one that is ignored, as nohup has it. For PID 1 of a container this is also what makes
    them arrive: the kernel drops a signal that init has no handler for.
    """

    def interrupt(_signum: int, _frame: FrameType | None) -> None:
        if callable(signal.getsignal(signal.SIGINT)):
            # A running event loop has a handler of its own there, which ends its tasks in order.
            signal.raise_signal(signal.SIGINT)
        else:  # SIGINT is ignored, as a shell does for what it starts in the background
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    every = (signal.SIGTERM, signal.SIGHUP)
    signals = [number for number in every if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
