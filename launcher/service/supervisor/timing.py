"""What a supervisor is given: its patience, and parts of folders that it must not know."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from launcher.service import process_tree
from launcher.service.failures import Classify
from launcher.service.supervisor import http_probe


@dataclass(frozen=True, slots=True)
class Timing:
    """How often the supervisor looks, and how long it waits. Seconds."""

    poll_s: float = 0.1
    """Between two looks while starting: a refused connection on loopback costs microseconds."""
    health_timeout_s: float = http_probe.HEALTH_TIMEOUT_S
    beat_s: float = 30.0
    """Between two looks once ready: a health check and an embedding each."""
    beat_failures: int = 2
    """Failures in a row that make a service degraded: one alone may be a long batch."""
    hang_failures: int = 3
    """Embeddings that fail in a row before the engine is started again."""
    patient_s: float = 120.0
    """For an embedding after one that failed while the engine was seen at work."""
    limb_s: float = 1.0
    """For the front to end by itself after its scheduler or detokenizer has died."""
    ailing_s: float = 3.0
    """For the engine to end by itself, its traceback told, after a log line that it will."""
    stalled_s: float = 20.0
    """Without a log line or CPU time: what a start past its learned budget may not be."""
    verify_s: float = 300.0
    """For the smoke, a first computation of the reference included."""
    gateway_start_s: float = 90.0
    """For the gateway to answer with the proved vector: its imports take a second."""
    gateway_beat_s: float = 10.0
    """Between two looks at the gateway's counts, which also show that it answers."""
    gateway_timeout_s: float = 10.0
    """For one such answer."""
    look_s: float = 0.2
    """Between two looks of a set's supervisor at its replicas: their state files' time stamps."""
    import_s: float = 120.0
    """For the import that a set's replicas share: 5 to 20 s, a minute from a cold and slow disk.
    After that each imports for itself."""
    frozen_s: float = 30.0
    """For the supervisor of a replica that does not move, before it is killed."""
    drain_s: float = 12.0
    """For the gateway to finish requests under way; of the leader's grace, which comes after."""
    patience: process_tree.Patience = field(default_factory=process_tree.Patience)


@dataclass(frozen=True)
class Dependencies:
    """What the supervisor is given, so that it need not know it."""

    classify: Classify
    verify_argv: tuple[str, ...] = (sys.executable, "-P", "-m", "launcher.verify")
    replica_argv: tuple[str, ...] = (sys.executable, "-P", "-m", "launcher.app.supervise")
    """A replica's supervisor; the name of its service and a time follow."""
    gateway_argv: tuple[str, ...] = (sys.executable, "-P", "-m", "launcher.app.service_gateway")
    timing: Timing = field(default_factory=Timing)
