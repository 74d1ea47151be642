"""How long tests wait. What is right happens in milliseconds on an idle machine, and after many
seconds on a slow one with other work: a limit is there to end a test that has failed, not to time.

    home.wait_for("ready")                      # a state, not a sleep
    eventually(lambda: path.exists())           # up to PATIENCE_S
    with no_hang(): down("svc")                 # ends by itself, not when what hangs ends
    with processor_time(0.5): load(path)        # cheap, however long others have the processor

`QLAUNCH_TEST_PATIENCE=3` multiplies every limit, for machines that are slower still.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

FACTOR: Final = float(os.environ.get("QLAUNCH_TEST_PATIENCE", "1"))

PATIENCE_S: Final = 120.0 * FACTOR
"""For one thing that happens soon."""
HANG_S: Final = 200.0 * FACTOR
"""What a test lets a fault wait for, and longer: a program that sleeps, a back-off, a grace."""


def eventually(check: Callable[[], Any], limit_s: float = PATIENCE_S) -> Any:
    """The first true answer of `check`, asked every 20 ms; fails after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not (found := check()):
        assert time.monotonic() < deadline, f"it did not happen within {limit_s:.0f} s"
        time.sleep(0.02)
    return found


@contextlib.contextmanager
def no_hang(limit_s: float = PATIENCE_S) -> Iterator[None]:
    """Fails where the block took as long as something in it that hangs, which is longer."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < limit_s, f"it took {took:.1f} s: it waited for what hangs"


@contextlib.contextmanager
def processor_time(limit_s: float) -> Iterator[None]:
    """Fails where this process computed for longer; others' turns do not count."""
    began = time.process_time()
    yield
    took = time.process_time() - began
    assert took < limit_s, f"it computed for {took:.3f} s"
