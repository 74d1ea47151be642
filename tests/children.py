"""Processes that a test starts and that would outlive it."""

from __future__ import annotations

import contextlib
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
