"""One service, measured level by level: rate and latency, and who works how long for a request."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.client import engine_target, sound
from benchmarks.home import Home, home
from benchmarks.start import PROFILE
from benchmarks.tree import CpuMeter
from launcher.bench.load import Bounds, Target, TextSource, measure_level
from launcher.documents.comparison import Level
from launcher.service.supervisor.batch_counter import prefill_batch

TOKENS = 128


@dataclass
class Measured:
    """One level, by repeat."""

    per_s: list[float] = field(default_factory=list)
    """Texts."""
    p50_ms: list[float] = field(default_factory=list)
    p95_ms: list[float] = field(default_factory=list)
    client_ms: list[float] = field(default_factory=list)
    """Processor time of the client, for a request."""
    front_ms: list[float] = field(default_factory=list)
    """Of the engine's front, which the texts come to; of a set of services, nothing."""
    engine_ms: list[float] = field(default_factory=list)
    """Of the engine's other processes."""
    batch: list[float] = field(default_factory=list)
    """Texts that the engine computed together, on average, by its log."""


Levels = dict[int, Measured]
"""By clients."""


def of_clients(levels: Levels, clients: Sequence[int]) -> list[tuple[Level, Measured]]:
    """Levels of clients that ask for one text at a time, and where their figures go."""
    return [
        (Level(clients=number, tokens=TOKENS), levels.setdefault(number, Measured()))
        for number in clients
    ]


def measure(
    asked: Sequence[tuple[Level, Measured]],
    service: str,
    words: tuple[str, ...],
    *,
    seconds: float,
    warmup: int,
    facts: dict[str, Any],
) -> str:
    """Start a service with `words`, measure all levels, stop it; the engine's version.

    Args:
        asked: levels, and where the figures of each go.
        seconds: of load, a level.
        warmup: requests before each level that do not count.
        facts: the machine's, looked at again before each level.

    Raises:
        BenchError: it did not start, or an answer was wrong.
    """
    with home() as place:
        served = start(place, service, words)
        for level, measured in asked:
            machine.look_again(facts)
            served.measure(level, measured, seconds=seconds, warmup=warmup)
        return served.version


def start(place: Home, service: str, words: tuple[str, ...]) -> Served:
    """Start a service with `words`; it ends with its home.

    Raises:
        BenchError: it did not start.
    """
    up = place.up(service, PROFILE, *words)
    target, texts = engine_target(place, up.data)
    return Served(target, texts, _engine(place, up.data), str(up.data["engine"]["version"]))


@dataclass(frozen=True)
class Served:
    """A service that levels are measured of, one after another."""

    target: Target
    texts: TextSource
    engine: _Engine | None
    version: str

    def measure(self, level: Level, measured: Measured, *, seconds: float, warmup: int) -> None:
        """Measure a level, and put its figures beside those of earlier repeats.

        Raises:
            BenchError: an answer was wrong.
        """
        bounds = Bounds(requests=100_000, limit_s=seconds, warmup=warmup)
        engine = self.engine
        meter = None if engine is None else CpuMeter(engine.leader)
        begin = 0 if engine is None else engine.log.stat().st_size
        row = sound(measure_level(self.target, level, self.texts, bounds))
        measured.per_s.append(row.embeddings_per_s or 0.0)
        measured.p50_ms.append(row.p50_ms or 0.0)
        measured.p95_ms.append(row.p95_ms or 0.0)
        busy_s = (row.client_cpu_percent or 0.0) / 100 * row.seconds
        measured.client_ms.append(1000 * busy_s / row.requests)
        if engine is None or meter is None:
            return
        all_s, front_s = meter.used_s(engine.leader), meter.used_s(engine.leader, alone=True)
        answered = row.requests + max(bounds.warmup, level.clients)
        measured.front_ms.append(1000 * front_s / answered)
        measured.engine_ms.append(1000 * (all_s - front_s) / answered)
        if batches := engine.batches(begin):
            measured.batch.append(statistics.mean(batches))


@dataclass(frozen=True)
class _Engine:
    """What tells how an engine works: its processes and its log."""

    leader: int
    log: Path

    def batches(self, begin: int) -> list[int]:
        """Texts of each batch that the log names after its first `begin` bytes."""
        with self.log.open("rb") as file:
            file.seek(begin)
            lines = file.read().decode("utf-8", "replace").splitlines()
        return [batch.texts for batch in map(prefill_batch, lines) if batch is not None]


def _engine(place: Home, data: dict[str, Any]) -> _Engine | None:
    """The engine of a service; None of a set, which has several."""
    if data.get("pid") is None or data.get("run") is None:
        return None
    record = place.run_record(str(data["run"]))
    return _Engine(int(data["pid"]), Path(record["path"], "engine.log"))
