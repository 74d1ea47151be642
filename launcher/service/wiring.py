"""What a supervisor is given: its patience, and parts of folders that it must not know."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from launcher.service import health, process
from launcher.service.endings import Classify


@dataclass(frozen=True, slots=True)
class Timing:
    """How often the supervisor looks, and how long it waits. Seconds."""

    poll_s: float = 0.1
    """Between two looks while starting: a refused connection on loopback costs microseconds."""
    health_timeout_s: float = health.HEALTH_TIMEOUT_S
    beat_s: float = 30.0
    """Between two health checks once ready."""
    beat_failures: int = 2
    """Failures in a row that make a service degraded: one alone may be a long batch."""
    verify_s: float = 300.0
    """For the smoke, a first computation of the reference included."""
    patience: process.Patience = field(default_factory=process.Patience)


@dataclass(frozen=True)
class Wiring:
    """What the supervisor is given, so that it need not know it."""

    classify: Classify
    verify_argv: tuple[str, ...] = (sys.executable, "-P", "-m", "launcher.verify")
    timing: Timing = field(default_factory=Timing)
