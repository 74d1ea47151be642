"""Throughput and latency by clients with one and with two replicas, and whether the queueing model
of `queueing.py` meets them: it is fitted to 1 and 16 clients, and held against the rest.

`python -m benchmarks.run scale`, about 3 minutes on a quiet machine of two cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from benchmarks import machine
from benchmarks.client import engine_target, sound
from benchmarks.figures import Report, Row, compared
from benchmarks.home import home, provide
from benchmarks.options import Options
from benchmarks.queueing import Costs, Load, Point, Shape, calibrate, closed_loop
from benchmarks.start import ENGINE, MODEL, PROFILE
from launcher.bench.load import Bounds, measure_level
from launcher.documents.comparison import Level

CLIENTS: Final = (1, 2, 4, 8, 16, 32)
FITTED: Final = (1, 16)
"""Clients of the levels that the costs are fitted to; all others are predicted."""
REPLICAS: Final = (1, 2)
TOKENS: Final = 128
WITHIN: Final = 0.10
BEGIN: Final = Costs(front_s=0.002, batch_s=0.005, text_s=0.005)
_SECONDS: Final = 6.0
_WARMUP: Final = 5


@dataclass
class Measured:
    """One level, by repeat."""

    per_s: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)


Curves = dict[int, dict[int, Measured]]
"""Levels by replicas and clients."""


def run(options: Options) -> Report:
    """Measure, and return what was seen.

    Raises:
        BenchError: something did not start, or requests failed.
    """
    provide(options.say, engine=ENGINE, model=MODEL)
    facts, times = machine.facts(), options.times(usual=2)
    curves: Curves = {}
    for number in range(times):
        for replicas in REPLICAS:
            options.say(f"round {number + 1} of {times}: {replicas} replicas")
            version = _life(curves.setdefault(replicas, {}), replicas, options, facts)
    cores = int(facts["threads"])
    return Report(
        benchmark="scale",
        title="The queueing model against one and two replicas",
        ours="the model",
        other=f"measured, {PROFILE} with one thread a replica",
        made=machine.now(),
        quick=options.quick,
        machine=facts,
        versions=machine.versions({"sglang": version}),
        settings={"repeats": times, "tokens": TOKENS, "fitted": FITTED, "within": WITHIN},
        rows=rows(curves, cores),
        notes=("Levels of 1 and 16 clients are fitted, the others predicted.",),
        raw=msgspec.to_builtins(curves, str_keys=True),
    )


def _life(levels: dict[int, Measured], replicas: int, options: Options, facts: Any) -> str:
    """One service, measured at every level; the engine's version."""
    with home() as place:
        words = ("--threads", "1", "--", "--dp-size", str(replicas))
        up = place.up("bench-scale", PROFILE, *words)
        target, texts = engine_target(place, up.data)
        for clients in CLIENTS:
            machine.look_again(facts)
            seconds = 1.0 if options.quick else _SECONDS
            bounds = Bounds(requests=100_000, limit_s=seconds, warmup=_WARMUP)
            level = Level(clients=clients, tokens=TOKENS)
            row = sound(measure_level(target, level, texts, bounds))
            measured = levels.setdefault(clients, Measured())
            measured.per_s.append(row.embeddings_per_s or 0.0)
            measured.p50_ms.append(row.p50_ms or 0.0)
        return str(up.data["engine"]["version"])


def points(curves: Mapping[int, Mapping[int, Measured]], cores: int) -> dict[bool, list[Point]]:
    """Measured levels as the model takes them: True those that are fitted, False the others."""
    found: dict[bool, list[Point]] = {True: [], False: []}
    for replicas, levels in curves.items():
        shape = Shape(replicas, threads=1, cores=cores)
        for clients, measured in levels.items():
            rate = sorted(measured.per_s)[len(measured.per_s) // 2]
            found[clients in FITTED].append(Point(shape, Load(clients), texts_per_s=rate))
    return found


def rows(curves: Mapping[int, Mapping[int, Measured]], cores: int) -> tuple[Row, ...]:
    """Throughput that the model predicts, beside the measured one."""
    costs = calibrate(points(curves, cores)[True], BEGIN)
    made = []
    for replicas, levels in curves.items():
        for clients, measured in levels.items():
            shape = Shape(replicas, threads=1, cores=cores)
            predicted = closed_loop(costs, shape, Load(clients)).texts_per_s
            name = f"{replicas} replica{'s' * (replicas > 1)}, {clients} clients"
            row = compared(name, "texts/s", [predicted] * len(measured.per_s), measured.per_s)
            assert row.ratio is not None  # compared() always gives one
            if clients not in FITTED:
                ok = abs(row.ratio.median - 1) <= WITHIN
                row = msgspec.structs.replace(row, wanted=f"within {WITHIN:.0%}", ok=ok)
            made.append(row)
    return tuple(made)
