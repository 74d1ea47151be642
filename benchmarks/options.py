"""How much a benchmark measures, and where it says what it is doing."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Options:
    """`quick` is for trying a script: its figures are no result."""

    repeats: int | None = None
    """How often each pair is measured; None: as often as the benchmark wants."""
    quick: bool = False
    _began: float = field(default_factory=time.monotonic)

    def times(self, usual: int, quick: int = 1) -> int:
        """How often to measure what is usually measured `usual` times."""
        return self.repeats or (quick if self.quick else usual)

    def say(self, line: str) -> None:
        """Progress, for the person who waits; results go to stdout."""
        print(f"  {time.monotonic() - self._began:6.1f} s  {line}", file=sys.stderr, flush=True)
