"""Throughput and latency by clients with one and with two replicas, and whether the queueing model
of `queueing.py` meets them: it is fitted to 1 and 16 clients, and held against the rest.

`python -m benchmarks.run scale`, about 3 minutes on a quiet machine of two cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from benchmarks import machine
from benchmarks.figures import Report, Row, compared
from benchmarks.home import provide
from benchmarks.levels import TOKENS, Levels, measure
from benchmarks.options import Options
from benchmarks.queueing import Costs, Load, Point, Shape, calibrate, closed_loop
from benchmarks.start import ENGINE, MODEL, PROFILE

CLIENTS: Final = (1, 2, 4, 8, 16, 32)
FITTED: Final = (1, 16)
"""Clients of the levels that the costs are fitted to; all others are predicted."""
REPLICAS: Final = (1, 2)
WITHIN: Final = 0.10
BEGIN: Final = Costs(front_s=0.002, batch_s=0.005, text_s=0.005)
_SECONDS: Final = 6.0
_WARMUP: Final = 5


Curves = dict[int, Levels]
"""Levels by replicas and clients."""


def run(options: Options) -> Report:
    """Measure, and return what was seen.

    Raises:
        BenchError: something did not start, or requests failed.
    """
    provide(options.say, engine=ENGINE, model=MODEL)
    facts, times = machine.facts(), options.times(usual=2)
    curves: Curves = {}
    seconds = 1.0 if options.quick else _SECONDS
    for number in range(times):
        for replicas in REPLICAS:
            options.say(f"round {number + 1} of {times}: {replicas} replicas")
            version = measure(
                curves.setdefault(replicas, {}),
                CLIENTS,
                "bench-scale",
                ("--threads", "1", "--", "--dp-size", str(replicas)),
                seconds=seconds,
                warmup=_WARMUP,
                facts=facts,
            )
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


def points(curves: Mapping[int, Levels], cores: int) -> dict[bool, list[Point]]:
    """Measured levels as the model takes them: True those that are fitted, False the others."""
    found: dict[bool, list[Point]] = {True: [], False: []}
    for replicas, levels in curves.items():
        shape = Shape(replicas, threads=1, cores=cores)
        for clients, measured in levels.items():
            rate = sorted(measured.per_s)[len(measured.per_s) // 2]
            found[clients in FITTED].append(Point(shape, Load(clients), texts_per_s=rate))
    return found


def rows(curves: Mapping[int, Levels], cores: int) -> tuple[Row, ...]:
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
