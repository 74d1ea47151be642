"""A circuit breaker: who fails again and again is left alone for a while, longer each time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Literal

FAILURES: Final = 3
"""In a row, until it opens."""
FIRST_REST_S: Final = 0.5
LONGEST_REST_S: Final = 30.0


class Breaker:
    """Closed: all pass. Open: none. After its rest one passes, and decides."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._rest_s = FIRST_REST_S
        self._until: float | None = None
        self._trying = False

    @property
    def state(self) -> Literal["closed", "open", "trying"]:
        """For people and metrics."""
        if self._until is None:
            return "closed"
        return "trying" if self._trying else "open"

    @property
    def rest_s(self) -> float:
        """Seconds of the rest that has begun, or of the next."""
        return self._rest_s

    def would_allow(self) -> bool:
        """Whether `allows` would; takes no turn."""
        return self._until is None or not (self._trying or self._clock() < self._until)

    def allows(self) -> bool:
        """Whether to ask now; who is allowed says afterwards how it went."""
        if self._until is None:
            return True
        if not self.would_allow():
            return False
        self._trying = True
        return True

    def success(self) -> bool:
        """It answered. True where that closes the breaker."""
        closes = self._until is not None
        self._failures, self._rest_s, self._until, self._trying = 0, FIRST_REST_S, None, False
        return closes

    def failure(self) -> bool:
        """It failed. True where that opens the breaker, which was closed."""
        if self._until is None:
            self._failures += 1
            if self._failures < FAILURES:
                return False
            self._until = self._clock() + self._rest_s
            return True
        if self._trying:
            self._rest_s = min(self._rest_s * 2, LONGEST_REST_S)
            self._until = self._clock() + self._rest_s
            self._trying = False
        return False
