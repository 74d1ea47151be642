"""What `top` shows of services at a moment: what cannot be had is None, with the reason beside."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from launcher.documents.service_state import State


class MemoryLook(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of an engine's processes."""

    bytes: int | None
    method: str
    """`pss`, `rss`, `nvml_process`, …; `mixed` where replicas were measured differently."""
    by_process: dict[str, int]
    """Bytes by role: front, scheduler, template, …"""
    reason: str | UnsetType = UNSET
    """Why there is none, or why it was not measured better."""


class RateLook(msgspec.Struct, frozen=True, kw_only=True):
    """Work of the last seconds, by the engine's own log."""

    texts_per_s: float | None
    tokens_per_s: float | None
    window_s: float | UnsetType = UNSET
    """Of so many seconds."""
    reason: str | UnsetType = UNSET


class QueueLook(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that wait in the engine."""

    requests: int | None
    reason: str | UnsetType = UNSET


class LatencyLook(msgspec.Struct, frozen=True, kw_only=True):
    """Of one short text, asked by qlaunch itself."""

    ms: float | None
    source: Literal["check", "smoke"] | UnsetType = UNSET
    age_s: float | UnsetType | None = UNSET
    """Of the supervisor's check; None for the smoke's."""
    reason: str | UnsetType = UNSET


class CacheLook(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache before the engine answered, as of the supervisor's last look."""

    inputs: int
    hits: int
    hit_rate: float | None
    bypassed: bool
    problem: str | None


class ServiceLook(msgspec.Struct, frozen=True, kw_only=True):
    """A service at this moment."""

    service: str
    profile: str
    state: State
    detail: str
    endpoint: str | None
    run: str
    uptime_s: float | None
    """Of the engine."""
    restarts: int
    cpu_percent: float | None
    """100 is one core."""
    ram: MemoryLook
    gpu: MemoryLook
    rate: RateLook
    queue: QueueLook
    latency: LatencyLook
    replicas: tuple[ServiceLook, ...] | UnsetType = UNSET
    """Of a set: each of its replicas, whose sum the others are."""
    cache: CacheLook | UnsetType = UNSET


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """The data of `top --json`: a document a look."""

    at: str
    """ISO 8601, UTC."""
    services: tuple[ServiceLook, ...]
