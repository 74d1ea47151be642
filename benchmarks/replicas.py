"""Two replicas behind the gateway, beside one engine with all threads and beside two schedulers of
one engine: throughput and p95 by clients.

`python -m benchmarks.run replicas`, about 3 minutes on a quiet machine of two cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from benchmarks import machine
from benchmarks.figures import Report, Row, compared
from benchmarks.home import provide
from benchmarks.levels import TOKENS, Levels, measure, of_clients
from benchmarks.options import Options
from benchmarks.start import ENGINE, MODEL, PROFILE

CLIENTS: Final = (1, 16)
WAYS: Final[Mapping[str, tuple[str, ...]]] = {
    "one engine": (),
    "two schedulers": ("--threads", "1", "--", "--dp-size", "2"),
    "two replicas": ("--replicas", "2"),
}
"""What `up` is told, by way of serving; threads are those of the machine, shared out."""
OURS: Final = "two replicas"
WANTED: Final = 1.4
"""Times the throughput of one engine with all threads, at 16 clients."""
_SECONDS: Final = 8.0
_WARMUP: Final = 16


Figures = dict[str, Levels]
"""By way and clients."""


def run(options: Options) -> Report:
    """Measure, and return what was seen.

    Raises:
        BenchError: something did not start, or requests failed.
    """
    provide(options.say, engine=ENGINE, model=MODEL)
    facts, times = machine.facts(), options.times(usual=2)
    found: Figures = {way: {} for way in WAYS}
    seconds = 1.0 if options.quick else _SECONDS
    for number in range(times):
        for way, words in WAYS.items():
            options.say(f"round {number + 1} of {times}: {way}")
            version = measure(
                of_clients(found[way], CLIENTS),
                "bench-replicas",
                words,
                seconds=seconds,
                warmup=_WARMUP,
                facts=facts,
            )
    return Report(
        benchmark="replicas",
        title="Two replicas behind the gateway",
        ours=OURS,
        other="named in the row",
        made=machine.now(),
        quick=options.quick,
        machine=facts,
        versions=machine.versions({"sglang": version}),
        settings={"repeats": times, "tokens": TOKENS, "clients": CLIENTS, "profile": PROFILE},
        rows=rows(found),
        notes=("Texts of 128 tokens, one a request, each asked for once.",),
        raw=msgspec.to_builtins(found, str_keys=True),
    )


def rows(found: Mapping[str, Levels]) -> tuple[Row, ...]:
    """Two replicas beside each other way, throughput and p95 by clients."""
    made = []
    for way in (each for each in WAYS if each != OURS):
        for clients in CLIENTS:
            ours, other = found[OURS][clients], found[way][clients]
            name = f"beside {way}, {clients} client{'s' * (clients > 1)}"
            judged = way == "one engine" and clients == max(CLIENTS)
            made += [
                compared(name, "texts/s", ours.per_s, other.per_s, "at least", WANTED)
                if judged
                else compared(name, "texts/s", ours.per_s, other.per_s),
                compared(f"{name}: p95", "ms", ours.p95_ms, other.p95_ms),
            ]
    return tuple(made)
