"""What `status`, `ps` and all that start a service say of it: the command line's contract."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from launcher.documents.failure import Failure, TakenFallback
from launcher.documents.plan import MemoryPrediction
from launcher.documents.run import Peak, Phase, PredictionError, Timings
from launcher.documents.service_state import (
    ExecutedEngine,
    LastCheck,
    MetricsAddress,
    Rollout,
    StartLimit,
    State,
)
from launcher.documents.smoke import Check, SmokeReport


class Nothing(msgspec.Struct, frozen=True):
    """`{}`: nothing is known of it."""


class NoChecks(msgspec.Struct, frozen=True):
    """No smoke has run."""

    checks: tuple[Check, ...] = ()


class StatusMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory foreseen and measured, and how far the one is off the other."""

    predicted: MemoryPrediction | Nothing
    measured: Peak | Nothing
    error: PredictionError
    """Of the peak until the vectors were proved right, as in the run record; null before."""


class GatewayStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway before the engine, and what its cache answered."""

    pid: int | None
    inputs: int
    hits: int
    shared: int
    hit_rate: float | None
    restarts: int
    bypassed: bool
    problem: str | None


class ReplicaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One replica of a set."""

    service: str
    state: State
    serving: bool
    endpoint: str | None
    pid: int | None
    supervisor_pid: int | None
    run: str
    starts: int
    restarts: int
    detail: str


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One service. What is unset is not in the document at all."""

    service: str
    profile: str
    state: State
    since: str
    endpoint: str | None
    pid: int | None
    supervisor_pid: int | None
    run: str
    engine: ExecutedEngine | Nothing
    memory: StatusMemory
    timings: Timings | Nothing
    smoke: SmokeReport | NoChecks
    failure: Failure | None
    restarts: int
    fallbacks: tuple[TakenFallback, ...]
    start_limit: StartLimit | Nothing
    last_check: LastCheck | Nothing
    metrics: MetricsAddress | None
    phases: tuple[Phase, ...]
    detail: str
    engine_endpoint: str | UnsetType | None = UNSET
    gateway: GatewayStatus | UnsetType = UNSET
    """With a cache or replicas."""
    part_of: str | UnsetType = UNSET
    """Of a replica."""
    replicas: tuple[ReplicaStatus, ...] | UnsetType = UNSET
    """With replicas, and so the next two."""
    serving: int | UnsetType = UNSET
    rollout: Rollout | UnsetType | None = UNSET
    template_pid: int | UnsetType = UNSET
    problem: str | UnsetType = UNSET


class StartedStatus(ServiceStatus, frozen=True, kw_only=True):
    """What `up` started, with what its clients must put before texts."""

    query_prompt: str
    document_prompt: str
    default_prompt: str | None
    prompts: dict[str, str]
    fingerprint: str


class RestartedStatus(ServiceStatus, frozen=True, kw_only=True):
    """What `restart` started."""

    reread: bool
    profile_changed: str | None
    """What changed in the profile since the plan was made, in a sentence."""
    rolling: bool
    detached: bool
    """It ran in the foreground of a command, which has ended, and is in the background now."""
