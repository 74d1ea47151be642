"""Run records: the portable account of one life of a service. Sizes in bytes, times in seconds."""

from __future__ import annotations

from typing import Literal

import msgspec

from launcher.documents.failure import Failure, TakenFallback
from launcher.documents.plan import Plan
from launcher.documents.smoke import SmokeReport

RamMethod = Literal["pss", "rss", "unavailable"]
GpuMethod = Literal["per_process", "device_delta", "unavailable"]


class ProcessSample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """One process of the engine's tree at one moment."""

    pid: int
    role: str
    """front, scheduler, detokenizer, gateway, or other."""
    ram_bytes: int | None
    cpu_percent: float | None
    """100 is one core."""
    gpu_bytes: int | None


class Sample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One reading of the engine's process tree."""

    t_s: float
    """Seconds since the run began, monotonic clock."""
    ram_bytes: int | None
    ram_method: RamMethod
    cpu_percent: float | None
    gpu_bytes: int | None
    gpu_method: GpuMethod
    processes: tuple[ProcessSample, ...]
    ram_reason: str | None = None
    """Why the method is not `pss`; left out of the record otherwise."""
    gpu_reason: str | None = None
    """Why the method is not `per_process`; left out of the record otherwise."""


class Peak(msgspec.Struct, frozen=True, kw_only=True):
    """The largest figures of a run; None with the method `unavailable` where not measured."""

    ram_peak_bytes: int | None = None
    gpu_peak_bytes: int | None = None
    method: dict[str, str] = {}
    """`{"ram": "pss", "gpu": "unavailable"}`, and `ram_reason`, `gpu_reason` where not the best."""


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of a service's life: starting, loading, warming, verifying, ready, …"""

    name: str
    t_s: float
    """When it began, seconds since the run began."""


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds from `up`'s start; None for what has not happened."""

    ready_s: float | None = None
    """To the first /health 200."""
    verified_s: float | None = None
    """To the smoke's verdict that the vectors are right."""


class PredictionError(msgspec.Struct, frozen=True, kw_only=True):
    """Predicted / measured - 1 when the service had just been verified; 0.1 is 10 % too much."""

    ram: float | None = None
    gpu: float | None = None


class CacheUse(msgspec.Struct, frozen=True, kw_only=True):
    """What clients asked of a service's cache, without the supervisor's own calls."""

    inputs: int = 0
    """Texts and lists of token ids that were answered."""
    hits: int = 0
    """Those that were in the cache."""
    shared: int = 0
    """Those that another request was having made."""
    restarts: int = 0
    """Starts of the gateway after it died, the engine's own restarts not counted."""

    @property
    def hit_rate(self) -> float | None:
        """Hits by inputs; None before the first."""
        return round(self.hits / self.inputs, 4) if self.inputs else None


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """`run.json` of a run record."""

    version: int
    run: str
    service: str
    profile: str
    began: str
    """ISO 8601, UTC."""
    ended: str | None = None
    outcome: str = "running"
    """running, stopped, failed."""
    plan: Plan | None = None
    """As it was executed; None where the record does not say."""
    phases: tuple[Phase, ...] = ()
    timings: Timings = Timings()
    peak: Peak = Peak()
    verified_peak: Peak | None = None
    """The peak until the service was verified: what the prediction is held against."""
    prediction_error: PredictionError = PredictionError()
    smoke: SmokeReport | None = None
    failure: Failure | None = None
    versions: dict[str, str | None] = {}
    restarts: int = 0
    forked: bool = False
    """Whether it began with an import of an earlier run or of its set, which takes most of the
    time of a start."""
    fallbacks: tuple[TakenFallback, ...] = ()
    cache: CacheUse | None = None
    """None where no cache was asked for."""


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `runs list`; of a broken record, as much as could be read."""

    run: str
    """The id, which is the folder's name."""
    service: str | None
    profile: str | None
    began: str | None
    ended: str | None
    outcome: str
    """As in Run, or `broken`."""
    ram_peak_bytes: int | None = None
    gpu_peak_bytes: int | None = None
    problem: str | None = None
    """Why the run failed, or what is wrong with its record; None for a sound one."""
    failure_class: str | None = None
    """Of a failed run: the class of its failure (`docs/failures.md`), else the error's code."""
