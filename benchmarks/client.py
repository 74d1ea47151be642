"""The client of `qlaunch bench` alone, against a server that answers at once.

What a client cannot send, it cannot measure: it must be much faster than any engine it is pointed
at, and cost little, for it shares the machine with the engine. Its rate on one core is held against
the engine's in the same run, both in texts, each with every answer checked.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import machine
from benchmarks.errors import BenchError
from benchmarks.figures import Report, Row, compared, single
from benchmarks.home import Home, home, provide
from benchmarks.options import Options
from benchmarks.start import ENGINE, MODEL, PROFILE
from launcher.bench.load import Bounds, Target, TextError, TextSource, measure_level, texts_for
from launcher.documents.comparison import Level
from launcher.documents.comparison import Row as LoadRow

FASTER = 20.0
DIMENSIONS, TOKENS = 384, 128
SHAPES = ((1, 16), (16, 4))
"""(texts of a request, clients): what a service of single texts sees, and one of batches."""


@dataclass
class Seen:
    """Rows by shape, in the order measured."""

    client: dict[str, list[LoadRow]] = field(default_factory=dict)
    engine: dict[str, list[LoadRow]] = field(default_factory=dict)


def run(options: Options) -> Report:
    """Measure, and return what was seen.

    Raises:
        BenchError: something did not start, or answers were wrong.
    """
    provide(options.say, engine=ENGINE, model=MODEL)
    facts, times, seen = machine.facts(), options.times(usual=5), Seen()
    with home() as place:
        options.say("starting the engine")
        up = place.up("bench-client", PROFILE)
        target, texts = engine_target(place, up.data)
        for number in range(times):
            for batch, clients in SHAPES:
                options.say(f"round {number + 1} of {times}: {clients} × {batch} texts")
                machine.look_again(facts)
                level = Level(batch=batch, clients=clients, tokens=TOKENS)
                name = f"{batch} × {TOKENS} tokens, {clients} clients"
                seconds = 1.0 if options.quick else 5.0
                seen.client.setdefault(name, []).append(null_row(level, texts, seconds))
                bounds = Bounds(requests=5 * clients, seconds=seconds, limit_s=60.0)
                row = sound(measure_level(target, level, texts, bounds))
                seen.engine.setdefault(name, []).append(row)
        version = str(up.data["engine"]["version"])
    return Report(
        benchmark="client",
        title="The client of `qlaunch bench` against a server that answers at once",
        ours="the client alone, on one core",
        other="the engine, `cpu-minilm`, measured by it",
        made=machine.now(),
        quick=options.quick,
        machine=facts,
        versions=machine.versions({"sglang": version}),
        settings={"repeats": times, "tokens": TOKENS, "dimensions": DIMENSIONS, "shapes": SHAPES},
        rows=rows(seen),
        notes=(
            (
                "Fresh texts for every request; every answer decoded, its vectors counted, in "
                "order, of the right size and finite; base64."
            ),
            "The client keeps to one core, the server that answers at once to another.",
        ),
        raw=msgspec.to_builtins(seen),
    )


def engine_target(place: Home, data: dict[str, Any]) -> tuple[Target, TextSource]:
    """A service as a target, and texts that it counts right.

    Raises:
        BenchError: it does not count.
    """
    plan = place.data("plan", PROFILE)
    target = Target(
        mode=PROFILE, url=str(data["endpoint"]), model=str(plan["model"]), dimensions=DIMENSIONS
    )
    return target, counted_texts(str(plan["model_path"]), target)


def counted_texts(model: str | Path, target: Target) -> TextSource:
    """Texts for the tokenizer of the checkpoint in `model`, which the server counts right.

    Raises:
        BenchError: it does not count.
    """
    try:
        return texts_for(model, target)
    except TextError as error:
        raise BenchError(str(error)) from error


def null_row(level: Level, texts: TextSource, seconds: float) -> LoadRow:
    """One level of the client alone, on a core of its own where there are two."""
    with null_server(level.batch) as port, one_core():
        target = Target(
            mode="null", url=f"http://127.0.0.1:{port}/v1", model="null", dimensions=DIMENSIONS
        )
        bounds = Bounds(requests=1, seconds=seconds, limit_s=60.0)
        return sound(measure_level(target, level, texts, bounds))


def sound(row: LoadRow) -> LoadRow:
    """`row`, if every answer of it was right.

    Raises:
        BenchError: one was not.
    """
    if row.errors or not row.embeddings_per_s:
        raise BenchError(f"{row.mode}: {row.error or row.reason}")
    return row


@contextlib.contextmanager
def null_server(texts: int) -> Iterator[int]:
    """The port of a server in a process of its own."""
    script = Path(__file__).with_name("nullserver.py")
    words = [str(number) for number in (texts, DIMENSIONS, TOKENS)]
    with subprocess.Popen(
        [sys.executable, "-S", script, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            others = sorted(os.sched_getaffinity(0))[1:]
            if others:
                os.sched_setaffinity(server.pid, others)
            yield int(server.stdout.readline())
        finally:
            server.stdin.close()  # it ends by itself


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, its threads included, to the first of its cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def rows(seen: Seen) -> tuple[Row, ...]:
    """Client against engine, by shape, and what the client costs beside the engine."""
    made = []
    for name, alone in seen.client.items():
        served = seen.engine[name]
        made += [
            compared(name, "texts/s", _rates(alone), _rates(served), "at least", FASTER),
            single(
                f"{name}: CPU of the client beside the engine",
                "% of a core",
                [row.client_cpu_percent or 0.0 for row in served],
            ),
        ]
    return tuple(made)


def _rates(found: list[LoadRow]) -> list[float]:
    return [row.embeddings_per_s or 0.0 for row in found]
