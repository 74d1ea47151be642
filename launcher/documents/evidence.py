"""What a machine knows of a plan: its runs that were proved right, and its comparisons."""

from __future__ import annotations

import msgspec

from launcher.documents.comparison import Loop


class CitedRow(msgspec.Struct, frozen=True, kw_only=True):
    """Of a row of `bench`, what is cited."""

    clients: int
    batch: int
    tokens: int
    shortest: int | None
    loop: Loop
    rate: float | None
    p50_ms: float | None
    p95_ms: float | None
    embeddings_per_s: float | None
    tokens_per_s: float | None
    ram_peak_bytes: int | None
    gpu_peak_bytes: int | None
    requests: int
    errors: int


class CitedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run of the same profile that was proved right."""

    run: str
    age_s: float
    stale: bool
    """It ran something else than would run now."""
    differs: tuple[str, ...]
    """In what: the engine's version, an option, the number of threads."""
    engine_version: str | None
    ready_s: float | None
    verified_s: float | None
    ram_peak_bytes: int | None
    gpu_peak_bytes: int | None
    bench: tuple[CitedRow, ...] = ()


class CitedLevel(msgspec.Struct, frozen=True, kw_only=True):
    """A level of a comparison: medians over its repeats."""

    level: str
    clients: int
    batch: int
    tokens: int
    shortest: int | None
    p50_ms: float | None
    p95_ms: float | None
    embeddings_per_s: float
    repeats: int
    noisy: bool


class CitedComparison(msgspec.Struct, frozen=True, kw_only=True):
    """A comparison in which the profile was measured."""

    comparison: str
    mode: str
    age_s: float
    complete: bool
    stale: bool
    differs: tuple[str, ...]
    winner: str | None
    gain: float | None
    """Times the plain command's texts a second."""
    runs: tuple[str, ...]
    levels: tuple[CitedLevel, ...]


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a profile from runs on this machine."""

    measured: bool
    """A run here, with this very engine version and these options, was proved right."""
    text: str
    run: str | None = None
    engine_version: str | None = None
    age_s: float | None = None
    ready_s: float | None = None
    ram_peak_bytes: int | None = None
    gpu_peak_bytes: int | None = None
    runs: tuple[CitedRun, ...] = ()
    """Newest first, supporting ones before stale ones."""
    comparisons: tuple[CitedComparison, ...] = ()
    """The newest ones, supporting ones before stale ones."""
