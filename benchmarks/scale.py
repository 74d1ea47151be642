"""Throughput by clients with one and with two replicas, and whether the queueing model of
`queueing.py` predicts it from service times alone.

The model's costs come from processor times of client, front and replica: of one replica under
load, where it is never idle, and of one client, who finds everybody asleep. How much cores hold
each other up is measured without a service. Of the curves' rates, that of one client on one replica
alone is looked at, for what he waits while nobody works: all other points of both are predicted.
All levels are measured in turn, round by round, both services up: a shared machine changes its
speed within seconds.

`python -m benchmarks.run scale`, about 10 minutes on a quiet machine of two cores; then
`python -m benchmarks.capacity` writes the page.
"""

from __future__ import annotations

import math
import statistics
from typing import Any, Final

import msgspec

from benchmarks import machine
from benchmarks.contention import engine_cores
from benchmarks.errors import BenchError
from benchmarks.figures import Report, Row, compared
from benchmarks.home import home, provide
from benchmarks.levels import TOKENS, Levels, Measured, of_clients, start
from benchmarks.options import Options
from benchmarks.queueing import Costs, Load, Shape, trial
from benchmarks.start import ENGINE, MODEL, PROFILE
from launcher.documents.comparison import Level

CLIENTS: Final = (1, 2, 4, 8, 16, 32)
BUSY: Final = 16
"""Clients at which the front is looked at again: it answers whole batches then."""
REPLICAS: Final = (1, 2)
LOOKED_AT: Final = (1, 1)
"""Replicas and clients of the one level whose rate costs are taken from: it is no prediction."""
WITHIN: Final = 0.10
_SECONDS: Final = 1.5
_WARMUP: Final = 2
_P95: Final = 1.645
"""Sigmas from a normal distribution's median to its 95th percentile."""
_TRIALS: Final = 20
"""Of the model, for a point."""
_SLICES: Final = 6
"""Of a core alone and of all together, a round."""


Curves = dict[int, Levels]
"""Levels by replicas and clients."""


class Raw(msgspec.Struct, kw_only=True):
    """Every single figure of a run."""

    curves: Curves
    together: list[float]
    """Speed of a core while all compute, of that of one alone, by round."""


def run(options: Options) -> Report:
    """Measure, and return what was seen.

    Raises:
        BenchError: something did not start, or requests failed.
    """
    provide(options.say, engine=ENGINE, model=MODEL)
    facts, times = machine.facts(), options.times(usual=25)
    cores = int(facts["threads"])
    raw = Raw(curves={}, together=[])
    seconds = 0.5 if options.quick else _SECONDS
    with home() as place, engine_cores(place, cores) as alike:
        served = {n: start(place, f"bench-scale-{n}", _words(n)) for n in REPLICAS}
        for number in range(times):
            options.say(f"round {number + 1} of {times}")
            machine.look_again(facts)
            raw.together.append(alike.together(slices=_SLICES, seconds=seconds / 10))
            for replicas, asked in _asked(raw):
                served[replicas].measure(*asked, seconds=seconds, warmup=_WARMUP)
        version = served[1].version
    return report(raw, cores, seconds, facts, version, times, quick=options.quick)


def _words(replicas: int) -> tuple[str, ...]:
    return ("--threads", "1", "--", "--dp-size", str(replicas))


def _asked(raw: Raw) -> list[tuple[int, tuple[Level, Measured]]]:
    """Each level, of which service, and where its figures go: levels alike lie close in time."""
    return [
        (replicas, asked)
        for clients in CLIENTS
        for replicas in REPLICAS
        for asked in of_clients(raw.curves.setdefault(replicas, {}), [clients])
    ]


def report(
    raw: Raw,
    cores: int,
    seconds: float,
    facts: dict[str, Any],
    version: str,
    times: int,
    *,
    quick: bool,
) -> Report:
    """What was seen, with what the model says."""
    costs_ms = {
        str(replicas): {
            name: round(1000 * value, 3)
            for name, value in vars(costs_of(raw, replicas)).items()
            if name.endswith("_s")
        }
        for replicas in raw.curves
    }
    return Report(
        benchmark="scale",
        title="The queueing model against one and two replicas",
        ours="the model",
        other=f"measured, {PROFILE} with one thread a replica",
        made=machine.now(),
        quick=quick,
        machine=facts,
        versions=machine.versions({"sglang": version}),
        settings={
            "repeats": times,
            "seconds": seconds,
            "even": True,
            "balanced": True,
            "tokens": TOKENS,
            "within": WITHIN,
            "costs_ms": costs_ms,
            "spread": round(costs_of(raw).spread, 3),
            "together": round(shared_of(raw), 3),
        },
        rows=rows(raw, cores, seconds),
        notes=("All but the first are predicted, from processor times and what one client waits.",),
        raw=msgspec.to_builtins(raw, str_keys=True),
    )


def costs_of(raw: Raw, replicas: int = 1) -> Costs:
    """The model's costs, from processor times (utilisation law).

    A replica's processor time for a text is `batch_s / texts of its batch + text_s`: a line over
    the levels of one replica at which it is never idle. One client finds everybody asleep: what it
    costs more wakes them, of each number of replicas by itself, since more processes are on the
    way. The front is woken by each batch's answers. What one client waits on average beyond all
    processor time is a delay; where it waits less, the rest of that time is spent after the answer:
    its rate on one replica is the only one that is looked at.

    Raises:
        BenchError: the engine computed all texts alone, so that nothing is known of batches.
    """
    shared, levels = shared_of(raw), raw.curves[1]
    batch_ms, text_ms = _line(
        [
            (1 / _of(level.batch), _of(level.engine_ms) * _beside_front(level, shared))
            for clients, level in levels.items()
            if clients > 1
        ]
    )
    one, busy = levels[1], levels[BUSY]
    alone_ms = _outside_ms(one)
    saved_ms = max(0.0, alone_ms - _outside_ms(busy) * shared)  # a replica computes beside it
    front_wake_ms = min(0.9 * alone_ms, saved_ms / (1 - 1 / max(2.0, _of(busy.batch))))
    gap_ms = 1000 / _of(one.per_s) - alone_ms - _of(one.engine_ms)
    in_ms = {
        "front_s": alone_ms - front_wake_ms,
        "batch_s": batch_ms,
        "text_s": text_ms,
        "front_wake_s": front_wake_ms,
        "wake_s": max(0.0, _of(raw.curves[replicas][1].engine_ms) - batch_ms - text_ms),
        "delay_s": max(0.0, gap_ms),
        "after_s": min(max(0.0, -gap_ms), 0.5 * (batch_ms + text_ms)),
    }
    spread = math.log(max(1.0, _of(one.p95_ms) / _of(one.p50_ms))) / _P95
    return Costs(**{name: value / 1000 for name, value in in_ms.items()}, spread=spread)


def _beside_front(level: Measured, shared: float) -> float:
    """How much less a replica would take if the front never worked beside it."""
    return 1 - (1 - shared) * min(1.0, _outside_ms(level) / _of(level.engine_ms))


def shared_of(raw: Raw) -> float:
    """Speed of a core while the others compute; none is faster for it."""
    return min(1.0, _of(raw.together))


def _outside_ms(level: Measured) -> float:
    """Processor time for a request, of whoever is no replica."""
    return _of(level.client_ms) + _of(level.front_ms)


def _of(values: list[float]) -> float:
    return statistics.median(values)


def _line(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Slope and begin of the line through points, neither below zero."""
    try:
        slope, begin = statistics.linear_regression(*zip(*points, strict=True))
    except statistics.StatisticsError as error:
        raise BenchError("all batches had the same number of texts") from error
    return max(0.0, slope), max(0.0, begin)


def rows(
    raw: Raw, cores: int, seconds: float, *, even: bool = True, balanced: bool = True
) -> tuple[Row, ...]:
    """Throughput that the model predicts of levels of so many seconds, beside the measured one.

    `even`: whether batches of the service kept one size (decision 154), `balanced`: whether a text
    went to the replica with the least to do (158); no record of before says.
    """
    made = []
    for replicas, levels in raw.curves.items():
        costs = costs_of(raw, replicas)
        shape = Shape(*(replicas, 1, cores), even=even, balanced=balanced, together=shared_of(raw))
        for clients, measured in levels.items():
            predicted = statistics.mean(
                trial(costs, shape, Load(clients), seconds, seed=seed)
                for seed in range(_TRIALS if costs.spread else 1)
            )
            name = f"{replicas} replica{'s' * (replicas > 1)}, {clients} clients"
            row = compared(name, "texts/s", [predicted] * len(measured.per_s), measured.per_s)
            assert row.ratio is not None  # compared() always gives one
            if (replicas, clients) != LOOKED_AT:
                ok = abs(row.ratio.median - 1) <= WITHIN
                row = msgspec.structs.replace(row, wanted=f"within {WITHIN:.0%}", ok=ok)
            made.append(row)
    return tuple(made)
