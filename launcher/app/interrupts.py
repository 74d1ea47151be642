"""Commands that start something and stop it themselves: one way out, whatever the signal."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

_END_OF_A_LOOP: Final = "BaseEventLoop.__del__"


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    """Another signal, taken as Ctrl-C."""
    if callable(signal.getsignal(signal.SIGINT)):
        # A running event loop has a handler of its own there, which ends its tasks in order.
        signal.raise_signal(signal.SIGINT)
    else:  # ignored, as in the background of a script
        raise KeyboardInterrupt


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM, as `timeout` and schedulers of jobs send it, ends the command as Ctrl-C does.

    A hang-up does not: whoever loses a terminal while a service starts finds it started.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def ends_by_interrupt() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP end the command as Ctrl-C does: what it started is stopped.

    SIGINT also where it was ignored: a shell without job control (a script, `ssh HOST 'command &'`)
    starts what it puts in the background so. Every process below would inherit that, and those
    that we interrupt would not end; asyncio would not end its tasks in order. An ignored SIGHUP
    stays ignored: that is what nohup is for. For PID 1 of a container this is also what makes the
    signals arrive: the kernel drops one that init has no handler for.
    """

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers: dict[signal.Signals, Callable[[int, FrameType | None], object]] = {
        signal.SIGTERM: _interrupt
    }
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        handlers[signal.SIGHUP] = _interrupt
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        handlers[signal.SIGINT] = signal.default_int_handler
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    reported = sys.unraisablehook

    def report(unraisable: sys.UnraisableHookArgs) -> None:
        # A signal may break in on the making of an event loop, whose end then fails.
        if getattr(unraisable.object, "__qualname__", "") != _END_OF_A_LOOP:
            reported(unraisable)

    sys.unraisablehook = report
    try:
        yield
    finally:
        if not isinstance(sys.exception(), KeyboardInterrupt):
            sys.unraisablehook = reported
        for number, handler in before.items():
            signal.signal(number, handler)
