"""What the smoke is asked, and what it answers."""

from __future__ import annotations

from typing import Final

import msgspec

from launcher.documents.plan import CardFacts
from launcher.model.checkpoint import Pooling

KEY_VARIABLE: Final = "QLAUNCH_VERIFY_KEY"
"""Of the smoke's process: the API key it asks with."""


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
    pooling: Pooling
    encoder: bool
    max_running_requests: int
    context_length: int
    longest_tokens: int | None = None
    """Tokens of the longest input that is answered, special tokens counted, where the plan knows
    better than `context_length` - 1, which is what engines take."""
    cuts_texts: bool = False
    """Whether longer inputs are cut to fit and not refused (`--allow-auto-truncate`)."""
    parity_min: float
    dtype: str
    engine_python: str | None
    """Python that computes the reference (transformers, fp32); None skips parity, and says so."""
    engine_env: dict[str, str] = {}
    """Extra variables for it (PYTHONPATH of the stand-ins, threads)."""
    reference_cache: str
    pooling_source: str = "1_Pooling/config.json"
    """What said how to pool, to name in messages."""
    normalize_source: str = "modules.json"
    card: CardFacts | None = None
    """The model card, where the model was asked for by its name."""
    query_prompt: str = ""
    """What the checkpoint's own files put before a query, literally."""
    document_prompt: str = ""
    """The same before a document."""
    timeout_s: float = 60.0
    """Bound for the smoke itself, from `go` to the report."""
    reference_timeout_s: float = 600.0
    """Bound for computing the reference where it is not cached."""

    @property
    def longest(self) -> int:
        """Tokens of the longest input that is answered, special tokens counted."""
        most = self.context_length - 1
        return most if self.longest_tokens is None else min(most, self.longest_tokens)


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


class GroupCosine(msgspec.Struct, frozen=True, kw_only=True):
    """Cosine with the reference over the answers to one kind of text."""

    group: str
    texts: int
    cosine_min: float
    cosine_mean: float


class SuiteReport(SmokeReport, frozen=True, kw_only=True):
    """What `qlaunch verify` found: the smoke's fields, and what only the long suite knows."""

    groups: tuple[GroupCosine, ...] = ()
    """By kind of text: languages, code, long, …; empty without a reference."""
    texts: int = 0
    """Different texts asked."""
    tokens: int | None = None
    """Tokens asked in all, by the engine's own count; None where it does not say."""
    tokens_per_s: float | None = None
    """Rate measured at the start, which the suite is cut to fit; None where no count came."""
    longest_tokens: int | None = None
    """Exact length of the longest text, by the engine's own count; None where none was asked."""
    left_out: tuple[str, ...] = ()
    """What was not asked, each with its reason."""


class QualityReport(msgspec.Struct, frozen=True, kw_only=True):
    """Retrieval on the set that ships with qlaunch: what the served vectors find.

    Nothing here is 0 for unknown: what could not be measured is None, and `reason` says why.
    """

    documents: int
    queries: int
    recall_at_10: float | None
    """Share of the relevant documents among the first ten, mean over the queries, as served."""
    reference_recall_at_10: float | None = None
    """The same with the checkpoint's own float32 vectors."""
    recall_difference: float | None = None
    """Served minus reference: below 0, retrieval got worse."""
    cosine_mean: float | None = None
    cosine_min: float | None = None
    """Cosine of every served vector with the reference."""
    seconds: float
    """Engine time for all texts."""
    instructed: bool
    """Whether queries carried the model's prompt or the model card's instruction."""
    reference: str
    """`computed`, `cached` or `unavailable: reason`."""
    reason: str | None = None


class Prepared(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="prepared"):
    """What the smoke process says when it can begin."""

    reference: str
    """`cached`, `computed`, or why there is none."""
    seconds: float = 0.0


class Reported(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="report"):
    """What it says in the end."""

    report: SmokeReport
    beat: str | None = None
    """The vector of the known sentence, base64 of float32 in this machine's order."""


class Broken(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="error"):
    """It could not check anything."""

    message: str


SmokeEvent = Prepared | Reported | Broken
"""A line of its output."""
