"""Processes that a test starts and that would outlive it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def running(argv: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process, killed at the end: a failed assertion in the block must not wait for it."""
    with subprocess.Popen(argv, **options) as child:
        try:
            yield child
        finally:
            child.kill()


def ignoring(*numbers: signal.Signals) -> list[str]:
    """Words before a command that is to begin with signals ignored, as a shell's `&` or nohup does.

    Without numbers there are none. The process is the command's own.
    """
    if not numbers:
        return []
    return ["sh", "-c", f'trap "" {" ".join(str(int(n)) for n in numbers)}; exec "$@"', "sh"]
