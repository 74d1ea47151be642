"""What the smoke is asked, and what it answers."""

from __future__ import annotations

import msgspec


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One smoke check."""

    name: str
    ok: bool
    detail: str


class VerifyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One smoke of one service; the API key comes by the environment, never in here."""

    endpoint: str
    """`http://host:port/v1`."""
    model: str
    model_path: str
    fingerprint: str
    dimensions: int
    normalize: bool
    pooling: str
    encoder: bool
    max_running_requests: int
    context_length: int
    parity_min: float
    dtype: str
    engine_python: str | None
    """Python that computes the reference (transformers, fp32); None skips parity, and says so."""
    engine_env: dict[str, str] = {}
    """Extra variables for it (PYTHONPATH of the stand-ins, threads)."""
    reference_cache: str
    timeout_s: float = 60.0
    """Bound for the smoke itself, from `go` to the report."""
    reference_timeout_s: float = 600.0
    """Bound for computing the reference where it is not cached."""


class SmokeReport(msgspec.Struct, frozen=True, kw_only=True):
    """The smoke's answer."""

    ok: bool
    checks: tuple[Check, ...]
    suspect: str | None = None
    """The knob that is likely wrong (`pooling`, `normalization`, `dtype`, …), when one is."""
    explanation: str | None = None
    worst_cosine: float | None = None
    mean_cosine: float | None = None
    worst_text: str | None = None
    sample: tuple[float, ...] = ()
    """First five elements of one vector."""
    latency_ms: float | None = None
    """One short text alone, after warm-up, whole call."""
    seconds: float = 0.0
    reference: str = "computed"
    """`computed`, `cached` or `unavailable: reason`."""
