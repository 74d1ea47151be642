"""`state.json`: what the supervisor says of its service. One writer, atomic replace.

The contract of the states (who may act: the supervisor alone; everyone else reads, or asks by
signal) stands in `launcher/service/supervisor/states.py`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from launcher.linux.processes import ProcessId

State = Literal[
    "starting",
    "loading",
    "warming",
    "verifying",
    "ready",
    "degraded",
    "backoff",
    "stopping",
    "stopped",
    "failed",
    "unknown",
]
"""`unknown` is never written: readers report it for a state file that cannot be read, and for a
supervisor that lives but does not move."""

FINAL: frozenset[State] = frozenset({"stopped", "failed", "unknown"})
"""States in which no supervisor is at work."""
GONE: frozenset[State] = frozenset({"stopped", "failed"})
"""States that a supervisor, or whoever settled for it, wrote as its last word."""
UP: frozenset[State] = frozenset({"ready", "degraded"})
"""States in which the endpoint has been verified."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a service failed."""

    code: str
    """Stable: start_failed, smoke_failed, timed_out, port_taken, …"""
    exit_code: int
    failure_class: str | None
    """Class from the log (`kv_budget`, `unknown_flag`, …), None where the log told nothing."""
    message: str
    fix: str | None
    evidence: tuple[str, ...] = ()
    """The log lines that prove it, terminal-safe and scrubbed."""


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
    supervisor: ProcessId | None
    """None only where the state is `unknown`."""
    engine: ProcessId | None
    engine_plan: dict[str, Any]
    """`{release, version, argv, env}` as executed, secrets never in it."""
    predicted: dict[str, Any]
    measured: dict[str, Any]
    """`{ram_peak_bytes, gpu_peak_bytes, method}`."""
    timings: dict[str, float | None]
    """`{ready_s, verified_s}`: first /health 200 and smoke passed, from `up`'s start."""
    smoke: dict[str, Any] | None = None
    failure: Failure | None = None
    restarts: int = 0
    last_check: dict[str, Any] = {}
    """`{latency_ms, cosine, at}`: the last embedding of our own that was answered right; its
    cosine with the vector that was verified."""
    metrics: dict[str, Any] | None = None
    """`{url, problem}` of the supervisor's `/metrics`; None where it was not asked for."""
    phases: tuple[dict[str, Any], ...] = ()
    fallbacks: tuple[dict[str, Any], ...] = ()
    """Steps taken after memory failures: `{step, of, flags, after, message}`."""
    start_limit: dict[str, Any] = {}
    """`{budget_s, limit_s, source}`: how long a start may take, and where the budget comes from."""
    detail: str = ""
    """One line for people: what is going on now."""
    problem: str | None = None
    """What readers cannot know, or who else has to be asked, in a sentence; never written."""
    host: str = ""
    """Name of the machine or container that the supervisor runs on."""


def at_work(state: ServiceState) -> bool:
    """Whether a supervisor is, or may be, at work on a settled service.

    An unknown state hides one that does not move; only one that names no supervisor may be over.
    """
    if state.state == "unknown":
        return state.supervisor is not None
    return state.state not in FINAL
