"""A plan: profile + hardware + model + engine, resolved to what will run, and why."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from launcher.argv import FlagValue
from launcher.config.profile import Restart
from launcher.config.service_cache import ServiceCache
from launcher.model.checkpoint import Pooling, Prompts

TermKind = Literal["model", "engine", "replicas", "options", "requests", "gateway"]
"""What a term is of: the model (weights, cache, activations), the engine's own processes, the
processes of further replicas, what options add to the engine, requests in the engine's front, the
gateway before the engine."""
StartMethod = Literal["fork", "spawn"]
ModelKind = Literal["encoder", "decoder"]

ENGINE_HOST: Final = "127.0.0.1"
"""Where an engine listens that a gateway stands before: nobody else's requests reach it."""

EnginePart = Literal["front", "scheduler", "detokenizer", "template"]
"""Processes of an engine on a CPU."""
NO_DETOKENIZER: Final = "QLAUNCH_DETOKENIZER"
"""Variable by which a plan tells the plugin to start no detokenizer (`none`)."""
NO_KV_CACHE: Final = "QLAUNCH_KV_CACHE"
"""Variable by which a plan tells the plugin to leave out the cache of keys and values (`none`)."""


def engine_parts(*, detokenizer: bool, template: bool) -> frozenset[EnginePart]:
    """The processes of an engine: with one that hands vectors on, with one to be forked again."""
    parts: set[EnginePart] = {"front", "scheduler"}
    if detokenizer:
        parts.add("detokenizer")
    if template:
        parts.add("template")
    return frozenset(parts)


class Term(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the predicted memory."""

    name: str
    """For people: nothing is decided by it."""
    device: Literal["ram", "gpu"]
    process: str | None = None
    """Which engine process holds it: front, scheduler, detokenizer; None for all together."""
    bytes: int
    basis: Literal["computed", "measured", "estimated"]
    source: str
    reserve: bool = False
    """Taken only under full load: not in the peak of a service that has just been verified."""
    kind: TermKind | None = None
    """None in records of earlier versions."""
    start_method: StartMethod | None = None
    """Of terms of engine processes: how they are started."""


class MemoryPrediction(msgspec.Struct, frozen=True, kw_only=True):
    """Predicted peak memory, term by term. None where the device is not used."""

    ram_bytes: int | None
    """Peak from the start until verified."""
    gpu_bytes: int | None
    ram_full_bytes: int | None = None
    """The same with the largest batch that the flags allow: what admission is decided by."""
    gpu_full_bytes: int | None = None
    terms: tuple[Term, ...] = ()


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """What a host's own run records say of the engine's processes."""

    base_bytes: int
    """Median over the runs of the measured peak less the computed terms."""
    runs: int
    source: str
    """For people: how many runs, from when to when."""


class EnginePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What will be executed: exact argv, and the variables set on top of the allow-list."""

    release: str
    version: str
    python: str
    argv: tuple[str, ...]
    env: dict[str, str]
    model_info_path: str = "/model_info"
    plugin: bool = True


class CardFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the model card says that the checkpoint is held to, and what clients must know."""

    name: str
    file: str
    """The card's file, to name in messages."""
    pooling: Pooling
    normalize: bool
    dimensions: int
    instruction: str | None = None
    """Template for queries, with `{task}` and `{query}`; None where texts go in as they are."""
    end_token: str | None = None
    """Token the tokenizer must append to every text; empty: it must append none; None: unsaid."""
    matryoshka: bool = False
    """Whether vectors may be cut to fewer dimensions."""


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """What right vectors look like for this plan; the smoke checks hold the service to it."""

    dimensions: int
    normalize: bool
    pooling: Pooling
    encoder: bool
    max_running_requests: int
    context_length: int
    parity_min: float
    """Least cosine with the fp32 reference that passes, by serving dtype."""
    dtype: str
    pooling_source: str = "1_Pooling/config.json"
    """What said how to pool, to name in messages."""
    normalize_source: str = "modules.json"
    card: CardFacts | None = None
    """The model card; None where the model was given as a folder or a repository."""
    prompts: Prompts | None = None
    """What the checkpoint says of prompts; the server applies none."""
    replicas: int = 1
    """Schedulers with weights of their own within one engine (`--dp-size`)."""


class ReplicaSet(msgspec.Struct, frozen=True, kw_only=True):
    """Engines of their own behind one address: each an ordinary service, supervised by a child of
    the set's supervisor."""

    count: int
    one: MemoryPrediction
    """Of one engine; the plan's own is the sum of all, with the gateway before them."""
    shares: tuple[dict[str, str], ...] = ()
    """By replica: the variables that name its part of the processors, or its card; empty where none
    do."""


class Fallback(msgspec.Struct, frozen=True, kw_only=True):
    """One step to start again with, after a memory failure."""

    flags: dict[str, FlagValue]
    """What it changes, on top of the steps before it."""
    argv: tuple[str, ...]
    """The whole command of the engine with this step and those before it."""
    expectation: Expectation
    predicted: MemoryPrediction


class Guard(msgspec.Struct, frozen=True, kw_only=True):
    """What the guard before the engine's handlers lets through; all of it is enforced there."""

    model: str
    """The served name; calls that name another model are refused."""
    aliases: tuple[str, ...] = ()
    """Further names that calls may give it."""
    vocabulary: int
    """Rows of the embedding table: token ids are 0 to one less."""
    text_tokens: int | None
    """Most tokens of one input, special tokens counted: so many are answered, one more is refused.
    None where longer ones are cut (--allow-auto-truncate)."""
    text_bytes: int
    """Most bytes of one text."""
    inputs: int
    """Most inputs of one call."""
    call_tokens: int
    """Most token ids of one call."""
    call_bytes: int
    """Most bytes of all texts of one call."""
    body_bytes: int
    """Most bytes of one body."""
    dimensions: int
    cut: bool
    """Whether fewer `dimensions` may be asked for."""
    metrics: bool
    """Whether /metrics is answered."""
    loopback: bool
    """Whether only this machine can connect; `Host` must name it then."""
    hosts: tuple[str, ...]
    """Further names that `Host` may have."""
    origins: tuple[str, ...]
    """Origins whose pages may ask."""
    open_calls: int
    """Most calls at once; beyond, and beyond the next three, the answer is 503."""
    open_bytes: int
    """Most bytes of bodies at once."""
    open_inputs: int
    """Most inputs at once; a call alone may have more."""
    open_tokens: int
    """Most tokens at once, of a text one for every four bytes; a call alone may have more."""
    body_seconds: float
    """Longest time that a body may take to arrive."""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan was made from: enough to make the same plan again, later and elsewhere."""

    profile: str
    """Name, or the absolute path of a file that was given."""
    profile_path: str
    profile_digest: str
    """SHA-256 of the profile as it was read, so that a later change shows."""
    settings: dict[str, str | int | float | bool]
    """What was decided beside the profile, by setting name; model, engine, address always."""
    of_profile: tuple[str, ...] = ()
    """Those of them that the profile decided, or nobody: another profile may say them otherwise."""
    extra: tuple[str, ...] = ()
    """The engine's options after `--`, those of the user's config before them."""
    environ: dict[str, str] = {}
    """Variables that choose folders or reach the engine; no secret is among them."""
    withheld: dict[str, str] = {}
    """Variables that were set too and are not kept, with the reason."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a supervisor needs; no field is read from the machine again."""

    service: str
    profile: str
    engine: EnginePlan
    device: Literal["cpu", "cuda"]
    model_name: str
    model_path: str
    model_kind: ModelKind | None = None
    """None in records of earlier versions."""
    fingerprint: str
    expectation: Expectation
    host: str
    port: int
    """0: the supervisor takes a free port when it starts, and puts it in place of `{port}`."""
    cache: ServiceCache | None = None
    """The cache that the gateway at `host` and `port` keeps, before an engine on a port of its own
    on loopback; None: there is no cache."""
    replica_set: ReplicaSet | None = None
    """The engines behind the gateway at `host` and `port`, one or more: everything else here is
    said of one of them. None: one engine, without a gateway unless there is a cache."""
    part_of: str | None = None
    """The service of which this one is a replica; None: it is nobody's."""
    metrics_port: int | None = None
    """Port of the supervisor's `/metrics`, 0 for a free one; None: there is none."""
    metrics_host: str = "127.0.0.1"
    """Address of that port."""
    api_key_file: str | None
    """A 0600 file; the key itself is in no plan, argv or record."""
    predicted: MemoryPrediction
    fits: bool
    misfit: str | None = None
    """Why it does not fit this machine; None where it fits."""
    remedy: str | None = None
    """The engine option that would make it fit, with its effect; None where none would."""
    reasons: tuple[str, ...] = ()
    """For people, the misfit and its remedy first."""
    start_timeout_s: float = 600.0
    start_budget_s: float | None = None
    """Seconds after which a start in which nothing happens any more has failed: learned from this
    host's runs, None where nothing is known."""
    start_budget_source: str = ""
    """Where the budget comes from, for people."""
    fallbacks: tuple[Fallback, ...] = ()
    """What to start again with after memory failures, in this order."""
    restart: Restart = Restart()
    template: bool = False
    """Whether lives after the first are forked from an imported process that is kept for them."""
    reference_cache: str = ""
    """Folder for cached parity references."""
    guard: Guard | None = None
    """None: the engine is started without a guard (an engine that is no SGLang, in tests)."""
    origin: Origin | None = None
    """None: made for a machine elsewhere, or by a version before there were origins."""

    @property
    def fronted(self) -> bool:
        """Whether a gateway has the service's address."""
        return self.cache is not None or self.replica_set is not None

    @property
    def movable(self) -> bool:
        """Whether no client knows the engine's own address: another port serves as well."""
        return self.fronted or self.part_of is not None

    @property
    def engine_host(self) -> str:
        """Where the engine listens."""
        return ENGINE_HOST if self.fronted else self.host

    @property
    def engine_port(self) -> int:
        """Port of the engine; 0: a free one."""
        return 0 if self.fronted else self.port

    @property
    def parts(self) -> frozenset[EnginePart]:
        """The processes of one scheduler's engine; in records of earlier versions too."""
        straight = self.engine.env.get(NO_DETOKENIZER) == "none"
        return engine_parts(detokenizer=not straight, template=self.template)

    @property
    def has_kv_cache(self) -> bool:
        """Whether the engine keeps a cache of keys and values."""
        return self.engine.env.get(NO_KV_CACHE) != "none"

    @property
    def longest_text(self) -> int:
        """Tokens of the longest input that is answered, special tokens counted."""
        most = self.expectation.context_length - 1  # the engine keeps room for one to come
        limit = None if self.guard is None else self.guard.text_tokens
        return most if limit is None else min(most, limit)
