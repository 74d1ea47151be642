"""The gateway before a real service: what hits save, what misses cost, and half of each.

Everything is asked of the engine and of the gateway in turn, by one client with one connection,
and every vector of the gateway is held against the engine's own of the same text.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import math
import statistics
import subprocess
import time
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import msgspec

from benchmarks import machine
from benchmarks.client import engine_target
from benchmarks.errors import BenchError
from benchmarks.figures import Report, Row, compared, single
from benchmarks.home import QLAUNCH, Home, home, provide
from benchmarks.options import Options
from benchmarks.start import ENGINE, MODEL, PROFILE

LENGTHS = (128, 26)
"""Tokens of a text: those of the other benchmarks, and a sentence, for which an engine works little
beside what a call costs."""
BATCHES = (1, 16)
REQUESTS = {1: 60, 16: 12}
"""Of one round at the engine; hits are quick and get ten times as many."""
HIT_SHARE, HIT_MS, MISS_COST, RATE, HALF = 1 / 20, 1.0, 1.05, 100.0, 1.8
CLIENTS, TOGETHER = 4, 8
"""At once, and requests of each, of 16 texts."""
IDLE_S = 2.0
CLOSE = 0.9999
"""Cosine of one text in two batches of an engine that computes in bfloat16 is no 1."""


@dataclass
class Seen:
    """Median milliseconds of a request by round, for each batch size."""

    engine: dict[int, list[float]] = field(default_factory=dict)
    misses: dict[int, list[float]] = field(default_factory=dict)
    hits: dict[int, list[float]] = field(default_factory=dict)
    half: dict[int, list[float]] = field(default_factory=dict)
    rest: list[float] = field(default_factory=list)
    """The engine alone, asked for no more than what `half` misses."""
    together: list[float] = field(default_factory=list)
    """Texts a second of `CLIENTS` at once, all of them new, straight to the engine."""
    together_half: list[float] = field(default_factory=list)
    """Through the gateway, half of them known."""
    together_rest: list[float] = field(default_factory=list)
    """Straight to the engine, only the half that is not known: twice its texts, to compare."""
    least_cosine: float = 1.0


class Asker:
    """One connection to a server."""

    def __init__(self, url: str, model: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=300)
        self._path, self._model = f"{parts.path}/embeddings", model
        self._used = time.perf_counter()

    def ask(self, texts: list[str]) -> tuple[float, list[Any], int]:
        """Milliseconds, vectors, and how many inputs came from the cache.

        Raises:
            BenchError: it refused.
        """
        body = {"model": self._model, "input": texts, "encoding_format": "base64"}
        data = json.dumps(body).encode()
        if time.perf_counter() - self._used > IDLE_S:
            self._connection.close()  # the engine closes one that lay idle for 5 s
        if self._connection.sock is None:
            self._connection.connect()
        began = time.perf_counter()
        self._connection.request("POST", self._path, data, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        answer = response.read()
        self._used = time.perf_counter()
        took = 1000 * (self._used - began)
        if response.status != 200:
            raise BenchError(f"{self._path}: {response.status} {answer[:200]!r}")
        vectors = [item["embedding"] for item in json.loads(answer)["data"]]
        return took, vectors, int(response.getheader("X-Cache-Hits") or 0)


def run(options: Options) -> Report:
    """Measure, and return what was seen.

    Raises:
        BenchError: something did not start, or answers were wrong.
    """
    provide(options.say, engine=ENGINE, model=MODEL)
    facts, times = machine.facts(), options.times(usual=5)
    seen = {tokens: Seen() for tokens in LENGTHS}
    with home() as place:
        options.say("starting the engine")
        up = place.up("bench-gateway", PROFILE)
        endpoint = str(up.data["endpoint"])
        target, source = engine_target(place, up.data)
        with gateway(place, "bench-gateway") as (url, _pid):
            engine, front = Asker(endpoint, target.model), Asker(url, target.model)
            for number in range(times):
                for tokens, its in seen.items():
                    options.say(f"round {number + 1} of {times}: texts of {tokens} tokens")
                    machine.look_again(facts)
                    fresh = itertools.chain.from_iterable(
                        source.take(16, tokens) for _ in itertools.count()
                    )
                    for batch in BATCHES:
                        count = max(3, REQUESTS[batch] // (10 if options.quick else 1))
                        asked = partial(next_batch, fresh, batch)
                        one_round(its, engine, front, asked, count, batch)
                    at_once(its, endpoint, url, target.model, fresh)
        version = str(up.data["engine"]["version"])
    least = min(its.least_cosine for its in seen.values())
    return Report(
        benchmark="gateway",
        title="The gateway before `cpu-minilm`, cache on disk",
        ours="through the gateway",
        other="the engine itself, other texts of the same length, in turn",
        made=machine.now(),
        quick=options.quick,
        machine=facts,
        versions=machine.versions({"sglang": version}),
        settings={"repeats": times, "requests": REQUESTS, "batches": BATCHES, "tokens": LENGTHS},
        rows=tuple(row for tokens, its in seen.items() for row in rows(its, tokens)),
        notes=(
            "One client, one connection; medians of a round, ratios of neighbours.",
            f"Least cosine of the gateway's vectors with the engine's: {least:.6f}.",
        ),
        raw=msgspec.to_builtins(seen, str_keys=True),
    )


def one_round(
    seen: Seen,
    engine: Asker,
    front: Asker,
    batch_of: Callable[[], list[str]],
    count: int,
    batch: int,
) -> None:
    """The engine, misses, hits and halves, one after the other; misses and engine interleaved.

    Raises:
        BenchError: what should have been a hit was none, or a vector is another's.
    """
    direct, missed, hit, half, rest, known = [], [], [], [], [], []
    for _ in range(count):
        direct.append(engine.ask(batch_of())[0])
        asked = batch_of()
        took, vectors, _hits = front.ask(asked)
        missed.append(took)
        known.append((asked, vectors))
    for asked, vectors in known * 10:
        took, again, hits = front.ask(asked)
        if hits == len(asked) and again != vectors:
            raise BenchError("a hit is another vector than the miss before it")
        if hits == len(asked):
            hit.append(took)
    for asked, _vectors in known:
        if batch > 1:
            half.append(front.ask(asked[: batch // 2] + batch_of()[batch // 2 :])[0])
            rest.append(engine.ask(batch_of()[batch // 2 :])[0])
    asked, vectors = known[0]
    for mine, its in zip(vectors, engine.ask(asked)[1], strict=True):
        seen.least_cosine = min(seen.least_cosine, cosine(mine, its))
    if seen.least_cosine < CLOSE:
        raise BenchError(f"a vector is not the engine's: cosine {seen.least_cosine:.6f}")
    for figures, name in ((direct, "engine"), (missed, "misses"), (hit, "hits"), (half, "half")):
        if figures:
            getattr(seen, name).setdefault(batch, []).append(statistics.median(figures))
    if rest:
        seen.rest.append(statistics.median(rest))


def at_once(seen: Seen, engine: str, front: str, model: str, fresh: Iterator[str]) -> None:
    """Several clients: the engine with new texts, and the gateway with half of them known."""
    known = next_batch(fresh, 8 * CLIENTS * TOGETHER)
    Asker(front, model).ask(known)
    new = [next_batch(fresh, 16) for _ in range(CLIENTS * TOGETHER)]
    mixed = [
        [*known[8 * at : 8 * at + 8], *next_batch(fresh, 8)] for at in range(CLIENTS * TOGETHER)
    ]
    seen.together.append(rate_of(engine, model, new))
    seen.together_half.append(rate_of(front, model, mixed))
    missing = [next_batch(fresh, 8) for _ in range(CLIENTS * TOGETHER)]
    seen.together_rest.append(2 * rate_of(engine, model, missing))


def rate_of(url: str, model: str, batches: list[list[str]]) -> float:
    """Texts a second of `CLIENTS` connections that share the batches."""

    def client(mine: list[list[str]]) -> None:
        asker = Asker(url, model)
        for batch in mine:
            asker.ask(batch)

    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, [batches[at::CLIENTS] for at in range(CLIENTS)]))
    return sum(map(len, batches)) / (time.perf_counter() - began)


def rows(seen: Seen, tokens: int) -> Iterator[Row]:
    """The table's part for texts of so many tokens."""
    one, many = (f"{n} × {tokens} tokens a request" for n in BATCHES)
    for batch, name in zip(BATCHES, (one, many), strict=True):
        engine = seen.engine[batch]
        yield compared(
            f"{name}, all hits: p50", "ms", seen.hits[batch], engine, "at most", HIT_SHARE
        )
        yield compared(
            f"{name}, misses: p50", "ms", seen.misses[batch], engine, "at most", MISS_COST
        )
    yield single(f"{one}, all hits: p50", "ms", seen.hits[1], "at most", HIT_MS)
    rate, base = rates(seen.hits[16], 16), rates(seen.engine[16], 16)
    yield compared(f"{many}, all hits: rate", "texts/s", rate, base, "at least", RATE)
    half = rates(seen.half[16], 16)
    yield compared(f"{many}, half hits: rate", "texts/s", half, base, "at least", HALF)
    name = f"{many}, {CLIENTS} clients at once, half hits: rate"
    yield compared(name, "texts/s", seen.together_half, seen.together, "at least", HALF)
    # What half hits can reach: an engine takes more than half of the time for half of a batch.
    name = f"{many}, half hits, beside the engine asked for the other 8 alone"
    yield compared(f"{name}: p50", "ms", seen.half[16], seen.rest, "at most", MISS_COST)
    name = f"{name}, {CLIENTS} clients at once: rate"
    least = 1 / MISS_COST
    yield compared(name, "texts/s", seen.together_half, seen.together_rest, "at least", least)


def rates(milliseconds: list[float], batch: int) -> list[float]:
    """Texts a second of one client."""
    return [1000 * batch / each for each in milliseconds]


def texts() -> Iterator[str]:
    """Texts of one length, each another."""
    for number in itertools.count(time.time_ns() % 10**9):
        yield f"text {number:012d}: the quick brown fox jumps over the lazy dogs by the river bank"


def next_batch(fresh: Iterator[str], batch: int) -> list[str]:
    """As many new texts."""
    return list(itertools.islice(fresh, batch))


def cosine(one: Any, other: Any) -> float:
    """Of two vectors as they came."""
    a, b = numbers(one), numbers(other)
    lengths = math.sqrt(math.fsum(x * x for x in a) * math.fsum(x * x for x in b))
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / lengths


def numbers(value: Any) -> array[float]:
    """A vector in either encoding."""
    found = array("f")
    if isinstance(value, str):
        found.frombytes(base64.b64decode(value))
    else:
        found.extend(value)
    return found


@contextlib.contextmanager
def gateway(place: Home, service: str, *words: str) -> Iterator[tuple[str, int]]:
    """A gateway before a service, with options, in a process of its own; its URL and pid."""
    with subprocess.Popen(
        [QLAUNCH, "gateway", service, "--port", "0", *words],
        env=place.environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise BenchError("the gateway did not start")
            yield line.split()[-1], process.pid
        finally:
            process.terminate()
