"""`state.json`: what the supervisor says of its service. One writer, atomic replace.

The contract of the states (who may act: the supervisor alone; everyone else reads, or asks by
signal) stands in `launcher/service/supervisor/states.py`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from launcher.documents.failure import Failure, TakenFallback
from launcher.documents.plan import MemoryPrediction
from launcher.documents.run import CacheUse, Peak, Phase, Timings
from launcher.documents.smoke import SmokeReport
from launcher.linux.processes import ProcessId

State = Literal[
    "starting",
    "loading",
    "warming",
    "verifying",
    "ready",
    "degraded",
    "idle",
    "backoff",
    "stopping",
    "stopped",
    "failed",
    "unknown",
]
"""`unknown` is never written: readers report it for a state file that cannot be read, and for a
supervisor that lives but does not move."""

START: tuple[State, ...] = ("starting", "loading", "warming", "verifying")
"""States of a start that has not been verified, in their order."""
FINAL: frozenset[State] = frozenset({"stopped", "failed", "unknown"})
"""States in which no supervisor is at work."""
GONE: frozenset[State] = frozenset({"stopped", "failed"})
"""States that a supervisor, or whoever settled for it, wrote as its last word."""
UP: frozenset[State] = frozenset({"ready", "degraded", "idle"})
"""States in which the endpoint has been verified, and answers: while `idle`, its engine is started
by the first request that needs it."""


class ExecutedEngine(msgspec.Struct, frozen=True, kw_only=True):
    """The engine as executed; secrets are never in it."""

    release: str | None = None
    version: str | None = None
    argv: tuple[str, ...] = ()
    env: dict[str, str] = {}


class LastCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The last embedding of our own that was answered right."""

    latency_ms: float | None = None
    cosine: float | None = None
    """With the vector that was verified."""
    at: str | None = None
    """ISO 8601, UTC."""


class MetricsAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where the supervisor answers `/metrics`, or why not."""

    url: str | None = None
    problem: str | None = None


class StartLimit(msgspec.Struct, frozen=True, kw_only=True):
    """How long a start may take, and where the budget comes from."""

    budget_s: float | None = None
    limit_s: float | None = None
    source: str = ""


class GatewayState(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway before the engine or engines, where the plan asks for a cache or for replicas."""

    process: ProcessId | None = None
    """None while none runs."""
    cached: bool = True
    """Whether it keeps vectors; without, its hits are none."""
    use: CacheUse = CacheUse()
    bypassed: bool = False
    """The cache is not asked for now: it failed, and requests go past it."""
    problem: str | None = None
    """What is wrong with it, in a sentence."""


class ReplicaState(msgspec.Struct, frozen=True, kw_only=True):
    """One replica, as the supervisor of its set sees it."""

    service: str
    """Its own service, `NAME.1`."""
    state: State
    serving: bool
    """Whether requests are handed to it: verified, and its vectors are those of the others."""
    endpoint: str | None = None
    supervisor: ProcessId | None = None
    engine: ProcessId | None = None
    run: str = ""
    starts: int = 0
    """How often its supervisor was started again after failures."""
    restarts: int = 0
    """How often its engine was, by its present supervisor."""
    detail: str = ""
    """Why it does not serve, in a sentence; empty where it does."""


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """The last change of a set that was asked for while it ran."""

    id: str
    kind: Literal["scale", "restart"]
    replicas: int
    """How many there are to be."""
    done: bool = False
    failure: Failure | None = None
    """Why it was not done; the set is then as it was."""
    detail: str = ""
    """One line for people: what is going on now."""


class ServiceState(msgspec.Struct, frozen=True, kw_only=True):
    """The whole state of one service."""

    version: int
    service: str
    profile: str
    state: State
    since: str
    """ISO 8601, UTC: when `state` was entered."""
    run: str
    endpoint: str | None
    engine_endpoint: str | None = None
    """The engine's own address, where a gateway stands before it."""
    supervisor: ProcessId | None
    """None only where the state is `unknown`."""
    engine: ProcessId | None
    template: ProcessId | None = None
    """The imported process from which the next life is forked; None: an import starts it."""
    gateway: GatewayState | None = None
    """None where neither a cache nor replicas were asked for."""
    replicas: tuple[ReplicaState, ...] = ()
    """Of a set; each is a service of its own too. Empty for a single engine."""
    rollout: Rollout | None = None
    """Of a set: the last change while it ran."""
    part_of: str | None = None
    """The set that this service is a replica of."""
    engine_plan: ExecutedEngine = ExecutedEngine()
    predicted: MemoryPrediction | None = None
    """None only where the state is `unknown`."""
    measured: Peak = Peak()
    verified_peak: Peak | None = None
    """The peak until its vectors were proved right: what `predicted` foresees."""
    timings: Timings = Timings()
    smoke: SmokeReport | None = None
    failure: Failure | None = None
    restarts: int = 0
    last_check: LastCheck = LastCheck()
    metrics: MetricsAddress | None = None
    """None where it was not asked for."""
    phases: tuple[Phase, ...] = ()
    fallbacks: tuple[TakenFallback, ...] = ()
    start_limit: StartLimit = StartLimit()
    detail: str = ""
    """One line for people: what is going on now."""
    problem: str | None = None
    """What readers cannot know, or who else has to be asked, in a sentence; never written."""
    host: str = ""
    """Name of the machine or container that the supervisor runs on."""
    foreground: bool = False
    """Whether the supervisor is an `up --foreground`, for which somebody may wait."""

    @property
    def serving(self) -> int:
        """Replicas of a set that requests are handed to."""
        return sum(replica.serving for replica in self.replicas)

    @property
    def leader(self) -> ProcessId | None:
        """The process at the top of what serves: the engine's, or the supervisor of a set."""
        return self.supervisor if self.replicas else self.engine

    @property
    def past_cache(self) -> str | None:
        """The address at which the engine itself answers, whatever stands before it."""
        return self.engine_endpoint or self.endpoint


def at_work(state: ServiceState) -> bool:
    """Whether a supervisor is, or may be, at work on a settled service.

    An unknown state hides one that does not move; only one that names no supervisor may be over.
    """
    if state.state == "unknown":
        return state.supervisor is not None
    return state.state not in FINAL
