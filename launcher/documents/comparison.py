"""What a measurement says: levels of load, rows of figures, modes side by side.

These are the documents of `bench --json`, `compare --json` and of the reports made from them.
Latencies in milliseconds, memory in bytes, times in seconds. A figure that was not measured is
None with a reason beside it, never 0.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import msgspec

VERSION = 1

Loop = Literal["closed", "open"]
Arrivals = Literal["poisson", "constant"]
Outcome = Literal["measured", "partial", "failed", "cannot_run", "not_reached"]
ModeKind = Literal["profile", "baseline", "peer", "tuned"]
Objective = Literal["throughput", "latency"]
Figure = Literal["embeddings_per_s", "p50_ms"]
"""What decides: of throughput, of latency."""
FigureName = Literal["mean_ms", "p50_ms", "p95_ms", "p99_ms", "embeddings_per_s", "tokens_per_s"]
FIGURES: Final[tuple[FigureName, ...]] = get_args(FigureName)
"""What a row and a cell are measured in, in the order they are shown."""


StageName = Literal["front", "scheduler", "model", "back"]


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """Where a text's time goes, by the way it takes: `front` reads the request and makes tokens,
    `scheduler` gathers batches, `model` computes, `back` makes the answer."""

    name: StageName
    ms: float
    """Milliseconds of busy threads, a text."""
    share: float
    """Of all four, 0 to 1."""


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """A function, with what it called: a bar of a flame graph."""

    name: str
    share: float
    """Of all busy samples, 0 to 1, callees included."""
    frames: tuple[Frame, ...] = ()
    """What it called, the largest first; less than half a percent is left out."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Stacks of the engine's processes, sampled while a level was run once more."""

    embeddings_per_s: float | None = None
    """Of that run: sampling costs a little, so the row's own figures are of a run without it."""
    seconds: float = 0.0
    samples: int = 0
    rate: int = 0
    """Samples a second, of every thread that is busy."""
    behind: bool = False
    """The sampler could not keep to its rate: shares stand, milliseconds are too few."""
    stages: tuple[Stage, ...] = ()
    frames: tuple[Frame, ...] = ()
    """The engine's processes, with what they do."""
    reason: str | None = None
    """Why there is none."""


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """One point of the grid: how the load is made."""

    loop: Loop = "closed"
    clients: int = 1
    """Requests at once (closed loop); connections (open loop)."""
    batch: int = 1
    """Texts of one request."""
    tokens: int = 128
    """Tokens of one text, special tokens counted, as the engine counts them; of the longest where
    lengths are mixed."""
    shortest: int | None = None
    """Mixed lengths: texts have from `shortest` to `tokens` tokens, each length as likely, drawn
    with a fixed seed. None: every text has `tokens`."""
    rate: float | None = None
    """Requests started a second, by a schedule that does not wait for answers; open loop only."""
    arrivals: Arrivals = "poisson"
    """Open loop only: at random, as many independent callers come, or evenly spaced."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What one level gave in one repeat. The first eleven keys are the contract of `bench`."""

    mode: str
    """Name of the mode: a service, a profile, `plain`."""
    batch: int
    clients: int
    mean_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    embeddings_per_s: float | None
    tokens_per_s: float | None
    ram_peak_bytes: int | None
    gpu_peak_bytes: int | None
    loop: Loop = "closed"
    tokens: int = 128
    """Tokens asked for, a text; of the longest where lengths are mixed."""
    shortest: int | None = None
    """Mixed lengths: tokens of the shortest text."""
    tokens_asked: float | None = None
    """Mixed lengths: mean tokens of the texts that were answered, as they were asked for."""
    rate: float | None = None
    """Requests a second that were asked for (open loop)."""
    requests: int = 0
    """Answered and counted; warm-up excluded."""
    errors: int = 0
    error: str | None = None
    """The first error, in words."""
    seconds: float = 0.0
    tokens_counted: float | None = None
    """Mean tokens of a text as the engine counted them."""
    client_cpu_percent: float | None = None
    """CPU of the measuring process itself, 100 is one core."""
    saturated: bool = False
    """The client used 90 % of a core or more: the figures are its own limit, not the engine's."""
    late_ms: float | None = None
    """Open loop: how far behind its schedule the client started requests, p99."""
    memory_method: dict[str, str] = {}
    """`{"ram": "pss", "gpu": "unavailable", "gpu_reason": …}`, as in run records."""
    profile: Profile | None = None
    """Where the time went; only with `--profile`."""
    reason: str | None = None
    """Why figures are None."""


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A figure over the repeats."""

    median: float
    least: float
    most: float
    count: int
    noisy: bool = False
    """Least and most are further apart than 15 % of the median."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One level of one mode, over all repeats. None: not measured."""

    level: Level
    mean_ms: Spread | None = None
    p50_ms: Spread | None = None
    p95_ms: Spread | None = None
    p99_ms: Spread | None = None
    embeddings_per_s: Spread | None = None
    tokens_per_s: Spread | None = None
    ram_peak_bytes: int | None = None
    gpu_peak_bytes: int | None = None
    errors: int = 0
    saturated: bool = False


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """What the mode's vectors are worth, against the checkpoint's own in float32."""

    cosine_mean: float | None = None
    cosine_min: float | None = None
    recall_at_10: float | None = None
    reference_recall_at_10: float | None = None
    reason: str | None = None


class Mode(msgspec.Struct, frozen=True, kw_only=True):
    """One column of a comparison: a way to serve, with everything measured of it."""

    name: str
    kind: ModeKind
    outcome: Outcome
    reason: str | None = None
    """Why it was not measured, or not wholly; the failure's class and fix where there is one."""
    note: str | None = None
    """What a reader of its figures must know, in a sentence without its full stop."""
    profile: str | None = None
    model: str | None = None
    device: str | None = None
    dtype: str | None = None
    release: str | None = None
    version: str | None = None
    """Version of the engine, of the peer's package for peers."""
    argv: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    """Run records that hold the evidence."""
    ready_s: Spread | None = None
    verified_s: Spread | None = None
    predicted: dict[str, int | None] = {}
    """`ram_bytes`, `gpu_bytes`: the plan's prediction until verified."""
    ram_peak_bytes: int | None = None
    """Over the whole life, load included."""
    gpu_peak_bytes: int | None = None
    verified_ram_bytes: int | None = None
    """What `predicted` is held against."""
    memory_method: dict[str, str] = {}
    quality: Quality | None = None
    cells: tuple[Cell, ...] = ()
    rows: tuple[Row, ...] = ()
    """Every repeat of every level, in the order measured."""

    def cell(self, level: Level) -> Cell | None:
        """What it gave at a level; None where it was not measured there."""
        return next((cell for cell in self.cells if cell.level == level), None)


class Remeasured(msgspec.Struct, frozen=True, kw_only=True):
    """The winner, measured once more: the best of several noisy figures flatters itself."""

    mode: str
    level: Level
    first: float
    again: float
    """In the unit of `figure`."""
    figure: Figure = "embeddings_per_s"


class MachineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The machine that was measured on, as far as figures depend on it; nothing names the host."""

    cpu: str | None = None
    instruction_sets: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    """Variables that hide instruction sets."""
    threads: int | None = None
    ram_bytes: int | None = None
    gpus: tuple[str, ...] = ()
    gpu_status: str | None = None
    driver_version: str | None = None
    kernel: str | None = None
    machine: str | None = None
    """Architecture: x86_64, aarch64."""
    idle_before: float | None = None
    """The least idle share of the processors before a measurement, 0 to 1."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """`compare`: modes side by side. Written after every step, so that nothing measured is lost."""

    version: int = VERSION
    id: str = ""
    """Name of its folder, as that of a run."""
    made: str
    """ISO 8601, UTC."""
    complete: bool
    interrupted: str | None = None
    """Why it ended early."""
    repeats: int
    objective: Objective = "throughput"
    """What the winner is chosen by."""
    levels: tuple[Level, ...]
    modes: tuple[Mode, ...]
    winner: str | None = None
    verdict: tuple[str, ...] = ()
    """The outcome in words, a sentence each."""
    remeasured: Remeasured | None = None
    machine: MachineFacts = MachineFacts()
    versions: dict[str, str | None] = {}
    notes: tuple[str, ...] = ()
