"""Throughput by clients with one and with two replicas, and whether the queueing model of
`queueing.py` predicts it from service times alone.

The model's costs are measured on one replica, with one client: processor time of the client, the
front and the replica for requests of 1, 4 and 16 texts, and what a request of one text takes beyond
that; what a message of a whole batch saves the front, from its processor time under load. How much
cores hold each other up is measured without a service. No throughput of a curve is fitted to: all
points of both curves are predicted.

`python -m benchmarks.run scale`, about 5 minutes on a quiet machine of two cores; then
`python -m benchmarks.capacity` writes the page.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from benchmarks import machine
from benchmarks.contention import together
from benchmarks.errors import BenchError
from benchmarks.figures import Report, Row, compared
from benchmarks.home import home, provide
from benchmarks.levels import TOKENS, Levels, Measured, measure, of_batches, of_clients
from benchmarks.options import Options
from benchmarks.queueing import Costs, Load, Shape, closed_loop
from benchmarks.start import ENGINE, MODEL, PROFILE

CLIENTS: Final = (1, 2, 4, 8, 16, 32)
BATCHES: Final = (1, 4, 16)
"""Texts of a request of one client, for what a replica's batch costs."""
BUSY: Final = 16
"""Clients at which the front is looked at again: it answers whole batches then."""
REPLICAS: Final = (1, 2)
WITHIN: Final = 0.10
_SECONDS: Final = 6.0
_WARMUP: Final = 5


Curves = dict[int, Levels]
"""Levels by replicas and clients."""


class Raw(msgspec.Struct, kw_only=True):
    """Every single figure of a run."""

    curves: Curves
    batches: Levels
    """Of one replica and one client, by texts of a request."""
    together: list[float]
    """Speed of a core while all compute, of that of one alone, by round."""


def run(options: Options) -> Report:
    """Measure, and return what was seen.

    Raises:
        BenchError: something did not start, or requests failed.
    """
    provide(options.say, engine=ENGINE, model=MODEL)
    facts, times = machine.facts(), options.times(usual=2)
    cores = int(facts["threads"])
    raw = Raw(curves={}, batches={}, together=[])
    seconds = 1.0 if options.quick else _SECONDS
    options.say("cores alone and together")
    with home() as place:
        raw.together = together(place, cores, rounds=3, seconds=seconds / 3)
    for number in range(times):
        for replicas in REPLICAS:
            options.say(f"round {number + 1} of {times}: {replicas} replicas")
            asked = of_clients(raw.curves.setdefault(replicas, {}), CLIENTS)
            if replicas == 1:
                asked += of_batches(raw.batches, BATCHES)
            version = measure(
                asked,
                "bench-scale",
                ("--threads", "1", "--", "--dp-size", str(replicas)),
                seconds=seconds,
                warmup=_WARMUP,
                facts=facts,
            )
    return report(raw, cores, facts, version, times, quick=options.quick)


def report(
    raw: Raw, cores: int, facts: dict[str, Any], version: str, times: int, *, quick: bool
) -> Report:
    """What was seen, with what the model says."""
    costs, shared = costs_of(raw), shared_of(raw)
    in_ms = {name: round(1000 * value, 3) for name, value in vars(costs).items()}
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
            "tokens": TOKENS,
            "within": WITHIN,
            "costs_ms": in_ms,
            "together": round(shared, 3),
        },
        rows=rows(raw.curves, costs, cores, shared),
        notes=("All points are predicted, from processor times of one replica.",),
        raw=msgspec.to_builtins(raw, str_keys=True),
    )


def costs_of(raw: Raw) -> Costs:
    """The model's costs, from service times of one replica (utilisation law).

    A replica's processor time for a text is `batch_s / texts of its batch + text_s`: a line over
    batches of different sizes. The front's cost of a text is what a request of one text takes it
    and the client, less the part that is of the message with the answers, which a batch shares:
    under load the front takes less for a text. What one client waits beyond all processor time is
    a delay.

    Raises:
        BenchError: the engine computed all texts alone, so that nothing is known of batches.
    """
    one, busy = raw.batches[1], raw.curves[1][BUSY]
    batch_ms, text_ms = _line(
        [
            (1 / _of(level.batch), _of(level.engine_ms) / texts)
            for texts, level in raw.batches.items()
        ]
    )
    alone_ms = _outside_ms(one)
    # Others work on the other core then, which makes processor time longer.
    busy_ms = _outside_ms(busy) * shared_of(raw)
    saved_ms = max(0.0, alone_ms - busy_ms)
    texts = _of(busy.batch)
    message_ms = min(0.9 * alone_ms, saved_ms * texts / (texts - 1)) if texts > 1 else 0.0
    delay_ms = max(0.0, _of(one.p50_ms) - alone_ms - batch_ms - text_ms)
    in_ms = (alone_ms - message_ms, batch_ms, text_ms, message_ms, delay_ms)
    return Costs(*(each / 1000 for each in in_ms))


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
    curves: Mapping[int, Levels], costs: Costs, cores: int, shared: float = 1.0
) -> tuple[Row, ...]:
    """Throughput that the model predicts, beside the measured one."""
    made = []
    for replicas, levels in curves.items():
        shape = Shape(replicas, threads=1, cores=cores, together=shared)
        for clients, measured in levels.items():
            predicted = closed_loop(costs, shape, Load(clients)).texts_per_s
            name = f"{replicas} replica{'s' * (replicas > 1)}, {clients} clients"
            row = compared(name, "texts/s", [predicted] * len(measured.per_s), measured.per_s)
            assert row.ratio is not None  # compared() always gives one
            ok = abs(row.ratio.median - 1) <= WITHIN
            made.append(msgspec.structs.replace(row, wanted=f"within {WITHIN:.0%}", ok=ok))
    return tuple(made)
