"""Against the plain command of the tutorials: `sglang serve --model-path … --is-embedding`.

It gets only what it needs to start on a CPU: the documented SGLANG_USE_CPU_ENGINE=1 and
`--device cpu` (SGLang 0.5.23 starts with either, and chooses its attention backend by itself),
and our stand-ins for `sgl_kernel` and torchvision, without which it cannot be imported here.
It takes most of the machine's memory; it is stopped where that gets dangerous for others.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import machine, phases, tree
from benchmarks.bare import bare_engine
from benchmarks.client import DIMENSIONS, TOKENS, counted_texts, sound
from benchmarks.figures import Relation, Report, Row, compared, single
from benchmarks.home import Home, home, provide
from benchmarks.options import Options
from benchmarks.phases import Starts
from benchmarks.start import ENGINE, MODEL, PROFILE, bare_command, shown
from launcher.bench.load import Bounds, Target, measure_level
from launcher.bench.plain import plain_argv, plain_environment
from launcher.documents.comparison import Level
from launcher.documents.comparison import Row as LoadRow
from launcher.service import ports

THROUGHPUT_LIMIT, IDLE_LIMIT = 5.0, 5.0
SUPERVISOR_CPU, SUPERVISOR_MB = 1.0, 60.0
BATCHES = (1, 16)
START_LIMIT_S = 420.0
FIRST_LIMIT_S = 900.0
"""With the reference to compute."""
SETTLE_S = 3.0
_MB = 1e6


@dataclass
class Side:
    """What one of the two gave, by repeat."""

    starts: Starts = field(default_factory=Starts)
    memory_mb: list[float] = field(default_factory=list)
    idle_percent: list[float] = field(default_factory=list)
    levels: dict[int, list[LoadRow]] = field(default_factory=dict)
    """By texts of a request."""
    supervisor_percent: list[float] = field(default_factory=list)
    supervisor_mb: list[float] = field(default_factory=list)

    def throughput(self, batch: int) -> list[float]:
        """Tokens per second, by repeat."""
        return [level.tokens_per_s or 0.0 for level in self.levels.get(batch, [])]

    def latency_ms(self, batch: int) -> list[float]:
        """Median latency of a request, by repeat."""
        return [level.p50_ms or 0.0 for level in self.levels.get(batch, [])]


@dataclass
class Pair:
    """Both, measured in turn."""

    ours: Side = field(default_factory=Side)
    plain: Side = field(default_factory=Side)


@dataclass(frozen=True)
class Work:
    """What to do with a server that is up; the same for both."""

    idle_s: float
    bounds: Bounds | None
    """None: no load."""
    model: Path | None = None
    """The checkpoint, whose tokenizer the texts are made for."""

    def on(self, side: Side, port: int, model: str, leader: int, supervisor: int | None) -> None:
        """Measure memory, idling and load of the server on `port`.

        Raises:
            BenchError: an answer was wrong, or tokens were not counted.
        """
        side.memory_mb.append(tree.pss_bytes(leader) / _MB)
        if self.idle_s:
            self._idle(side, leader, supervisor)
        if self.bounds is None or self.model is None:
            return
        target = Target(
            mode=model, url=f"http://127.0.0.1:{port}/v1", model=model, dimensions=DIMENSIONS
        )
        texts = counted_texts(self.model, target)
        for batch in BATCHES:
            level = Level(batch=batch, tokens=TOKENS)
            row = sound(measure_level(target, level, texts, self.bounds))
            side.levels.setdefault(batch, []).append(row)

    def _idle(self, side: Side, leader: int, supervisor: int | None) -> None:
        time.sleep(SETTLE_S)
        own = [supervisor] if supervisor is not None else []
        meter = tree.CpuMeter(leader, *own)
        time.sleep(self.idle_s)
        side.idle_percent.append(meter.percent(leader))
        for pid in own:
            side.supervisor_percent.append(meter.percent(pid, alone=True))
            side.supervisor_mb.append(tree.rss_bytes(pid) / _MB)


def run(options: Options) -> Report:
    """Measure MiniLM, and return what was seen.

    Raises:
        BenchError: something did not start.
    """
    provide(options.say, engine=ENGINE, model=MODEL)
    facts, times, pair = machine.facts(), options.times(usual=3), Pair()
    bounds = Bounds(5, 1.0, 15.0) if options.quick else Bounds(30, 5.0, 90.0)
    with home() as place:
        argv, _, version = bare_command(place, PROFILE)
        work = Work(3.0 if options.quick else 20.0, bounds, model_of(argv))
        argv = measure_pairs(place, options, facts, pair, work, times, PROFILE)
    return report(
        "plain",
        "MiniLM against the plain command",
        options,
        facts,
        version,
        settings={
            "repeats": times,
            "tokens": TOKENS,
            "batches": BATCHES,
            "ours": shown(argv),
        },
        rows=_rows(pair),
        notes=(*notes(argv), *_NOTES),
        raw=raw(pair),
    )


def report(
    name: str,
    title: str,
    options: Options,
    facts: dict[str, Any],
    version: str,
    *,
    settings: dict[str, Any],
    rows: tuple[Row, ...],
    notes: tuple[str, ...],
    raw: dict[str, Any],
) -> Report:
    """A report against the plain command."""
    command = plain_argv(["sglang", "serve"], "MODEL", 30000)
    return Report(
        benchmark=name,
        title=title,
        ours="`qlaunch up`",
        other="`sglang serve --model-path … --is-embedding`",
        made=machine.now(),
        quick=options.quick,
        machine=facts,
        versions=machine.versions({"sglang": version}),
        settings={"plain": ["SGLANG_USE_CPU_ENGINE=1", *command], **settings},
        rows=rows,
        notes=notes,
        raw=raw,
    )


def measure_pairs(
    place: Home,
    options: Options,
    facts: dict[str, Any],
    pair: Pair,
    work: Work,
    times: int,
    *asked: str,
) -> list[str]:
    """Both in turn, `times` times; `asked`: the arguments of `qlaunch up`; our command line."""
    argv, env, _ = bare_command(place, *asked)
    options.say(f"{asked[0]}: once to compute the reference and to warm the page cache")
    place.up("bench-plain", *asked, limit_s=FIRST_LIMIT_S)
    place.down("bench-plain")
    for number in range(times):
        options.say(f"{asked[0]}: pair {number + 1} of {times}")
        machine.look_again(facts)
        _ours(place, pair.ours, work, *asked)
        _plain(place, pair.plain, work, (argv[:2], env), model_of(argv))
    return argv


def model_of(argv: Sequence[str]) -> Path:
    """The folder of the checkpoint that a command line serves."""
    return Path(argv[argv.index("--model-path") + 1])


def _ours(place: Home, side: Side, work: Work, *asked: str) -> None:
    up = place.up("bench-plain", *asked)
    record = place.run_record(str(up.data["run"]))
    side.starts.add(up.seconds, phases.of_run(record))
    argv = list(up.data["engine"]["argv"])
    served = argv[argv.index("--served-model-name") + 1]
    work.on(side, up.port, served, up.pid, up.supervisor_pid)
    place.down("bench-plain")


def _plain(
    place: Home,
    side: Side,
    work: Work,
    program: tuple[Sequence[str], dict[str, str]],
    model: Path,
) -> None:
    start, planned = program
    env = plain_environment(planned)
    port = ports.pick_free("127.0.0.1")
    argv = plain_argv(start, str(model), port)
    with bare_engine(argv, env, port, place.root / "plain.log") as engine:
        healthy = engine.wait_healthy(START_LIMIT_S)
        side.starts.add(healthy, phases.of_engine(engine, healthy))
        work.on(side, port, str(model), engine.pid, None)


def start_and_memory(
    pair: Pair, relation: Relation | None = None, start: float = 0.0, memory: float = 0.0
) -> list[Row]:
    """The rows of time and memory, judged by the limits where there is a relation."""
    ours, plain = pair.ours, pair.plain
    up, bare = ours.starts, plain.starts
    return [
        compared("start, until `/health` 200", "s", up.healthy, bare.healthy, relation, start),
        compared("memory (PSS)", "MB", ours.memory_mb, plain.memory_mb, relation, memory),
        compared("start, our vectors proved right", "s", up.seconds, bare.seconds),
        *phases.rows(up, bare),
    ]


def _rows(pair: Pair) -> tuple[Row, ...]:
    ours, plain = pair.ours, pair.plain
    rows = start_and_memory(pair)
    for batch in BATCHES:
        each = f"{batch} × {TOKENS} tokens"
        many, few = ours.throughput(batch), plain.throughput(batch)
        rows += [
            compared(f"{each}: throughput", "tokens/s", many, few, "at least", THROUGHPUT_LIMIT),
            compared(f"{each}: p50", "ms", ours.latency_ms(batch), plain.latency_ms(batch)),
        ]
    unit, own = "% of a core", "its supervisor"
    rows += [
        single("idle", unit, ours.idle_percent, "at most", IDLE_LIMIT, other=plain.idle_percent),
        single(f"{own}: CPU", unit, ours.supervisor_percent, "at most", SUPERVISOR_CPU),
        single(f"{own}: memory (RSS)", "MB", ours.supervisor_mb, "at most", SUPERVISOR_MB),
    ]
    return tuple(rows)


_BOTH = (
    "Both in turn, each started afresh; the ratio is the median of the pairs' ratios.",
    "The plain command proves nothing: its start ends with the first `/health` 200.",
    "It has SGLANG_USE_CPU_ENGINE=1, `--device cpu`, and stand-ins for what has no CPU build.",
    "SGLang 0.5.23 needs no more to start: it falls back to torch_native attention by itself.",
)
_NOTES = (
    "The plain command's vectors are wrong: it pools another token than the model says.",
    "Load: one client on one connection, texts of random words that are never sent twice.",
)


def notes(argv: Sequence[str]) -> tuple[str, ...]:
    """What a reader of any comparison with the plain command should know."""
    cold = "Ours skips the engine's own warm-up request (`--skip-server-warmup`): the checks do it."
    return (*_BOTH, *([cold] if "--skip-server-warmup" in argv else []))


def raw(pair: Pair) -> dict[str, Any]:
    """Every figure of both."""
    found: dict[str, Any] = msgspec.to_builtins(pair, str_keys=True)
    return found
