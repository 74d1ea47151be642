"""`python -m benchmarks.gateway_soak --minutes 30`: nine of ten texts known, for a long time.

Four clients ask a gateway before the real `cpu-minilm` for 1 to 16 texts a request, nine tenths of
them from a fixed set, whose common ones come most often, the rest new. The store is small, so that
it is full after some minutes and entries go. Every vector of the set is held against its first one.
At the end: no error, no wrong vector, the gateway's memory no larger than in the first half (first
tenth left out), the store never beyond its bound, hits as many as were asked for.

Exit status: 0 all of it holds, 1 something does not, 2 it could not be run.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchError
from benchmarks.gateway import CLOSE, Asker, cosine, gateway, texts
from benchmarks.home import Home, home, provide
from benchmarks.start import ENGINE, MODEL, PROFILE

CLIENTS = 4
KNOWN = 2000
SIZES = (1, 1, 1, 1, 4, 4, 16)
HITS = 0.9
STORE_BYTES = 32 << 20
LOOK_S = 2.0
GROWTH, GROWTH_BYTES = 1.05, 4e6
"""Of the median of the second half over that of the first: an allocator's own noise."""
JUDGED_S = 300.0
"""Least time for that: while the vectors used last fill up, it grows."""
LEAST_HITS = 0.8
"""Of all inputs: the set is warmed, but entries of its rare texts may go."""


@dataclass
class Seen:
    """What happened, counted by all clients."""

    inputs: int = 0
    hits: int = 0
    requests: int = 0
    problems: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    """Bytes of the gateway (PSS), every few seconds."""
    store: list[int] = field(default_factory=list)
    """Bytes of the file, its log and its index."""
    lock: threading.Lock = field(default_factory=threading.Lock)


class Client:
    """Asks until it is told to stop."""

    def __init__(self, url: str, model: str, known: dict[str, Any], seen: Seen, seed: int) -> None:
        self._asker = Asker(url, model)
        self._known, self._names = known, list(known)
        self._seen = seen
        self._random = random.Random(seed)
        self._fresh = (f"new {seed} {number}: the quick brown fox" for number in itertools.count())

    def run(self, stop: threading.Event) -> None:
        """Ask again and again; what goes wrong is noted, and ends it."""
        try:
            while not stop.is_set():
                self._once()
        except (BenchError, OSError, ValueError) as error:
            self._note(f"a request failed: {error}")

    def _once(self) -> None:
        asked = [self._text() for _ in range(self._random.choice(SIZES))]
        _took, vectors, hits = self._asker.ask(asked)
        for text, vector in zip(asked, vectors, strict=True):
            first = self._known.get(text)
            if first is not None and vector != first and cosine(vector, first) < CLOSE:
                self._note("a vector is another than the first one of its text")
        with self._seen.lock:
            self._seen.inputs += len(asked)
            self._seen.hits += hits
            self._seen.requests += 1

    def _text(self) -> str:
        if self._random.random() >= HITS:
            return next(self._fresh)
        # The square of a uniform number: a tenth of the set gets a third of the requests.
        return self._names[int(self._random.random() ** 2 * len(self._names))]

    def _note(self, problem: str) -> None:
        with self._seen.lock:
            if len(self._seen.problems) < 20:
                self._seen.problems.append(problem)


def soak(place: Home, minutes: float, say: Callable[[str], None]) -> Seen:
    """Run it.

    Raises:
        BenchError: something did not start.
    """
    seen, stop = Seen(), threading.Event()
    up = place.up("bench-soak", PROFILE)
    model = str(place.data("plan", PROFILE)["model"])
    store = place.root / "soak" / "vectors.db"
    kept = ("--cache", str(store), "--cache-max-bytes", str(STORE_BYTES))
    with gateway(place, "bench-soak", *kept) as (url, pid):
        warm = Asker(url, model)
        say(f"{KNOWN} texts are made, before {up.data['endpoint']}")
        source = texts()
        known: dict[str, Any] = {}
        while len(known) < KNOWN:
            part = list(itertools.islice(source, 40))
            known.update(zip(part, warm.ask(part)[1], strict=True))
        clients = [Client(url, model, known, seen, seed) for seed in range(CLIENTS)]
        threads = [threading.Thread(target=each.run, args=(stop,)) for each in clients]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 60 * minutes
        while time.monotonic() < until and any(thread.is_alive() for thread in threads):
            time.sleep(LOOK_S)
            seen.memory.append(pss(pid))
            seen.store.append(size(store))
        stop.set()
        for thread in threads:
            thread.join()
    return seen


def pss(pid: int) -> float:
    """Bytes of a process, shared pages in part."""
    page = Path(f"/proc/{pid}/smaps_rollup").read_text("utf-8")
    line = next(line for line in page.splitlines() if line.startswith("Pss:"))
    return 1024.0 * int(line.split()[1])


def size(store: Path) -> int:
    """Bytes of the file and what lies beside it."""
    total = 0
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            total += store.with_name(store.name + suffix).stat().st_size
    return total


def verdicts(seen: Seen) -> list[tuple[str, bool]]:
    """What was seen, a line each, and whether it is as it should be."""
    begin = len(seen.memory) // 10
    later = seen.memory[begin:]
    half = len(later) // 2
    if not half or not seen.inputs:
        return [("too short to tell", False)]
    first, second = statistics.median(later[:half]), statistics.median(later[half:])
    share = seen.hits / seen.inputs
    judged = len(seen.memory) * LOOK_S >= JUDGED_S
    return [
        (f"{seen.requests} requests, {seen.inputs} texts", True),
        *((problem, False) for problem in seen.problems),
        (f"hits: {share:.1%} of the texts, at least {LEAST_HITS:.0%}", share >= LEAST_HITS),
        (
            f"memory: median {first / 1e6:.1f} MB, then {second / 1e6:.1f} MB"
            + ("" if judged else " (too short to judge: vectors stay in memory for a minute)"),
            second <= first * GROWTH + GROWTH_BYTES or not judged,
        ),
        (
            f"store: {max(seen.store) / 1e6:.1f} MB at most, bound {STORE_BYTES / 1e6:.1f} MB",
            max(seen.store) <= STORE_BYTES,
        ),
    ]


def main(words: list[str]) -> int:
    """Run it as the command line says; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway_soak")
    parser.add_argument("--minutes", type=float, default=30.0)
    minutes = parser.parse_args(words).minutes

    def say(text: str) -> None:
        print(text, flush=True)

    try:
        provide(say, engine=ENGINE, model=MODEL)
        with home() as place:
            lines = verdicts(soak(place, minutes, say))
    except BenchError as error:
        print(f"not run: {error}", file=sys.stderr)
        return 2
    for line, fine in lines:
        say(f"{'ok  ' if fine else 'BAD '} {line}")
    return 0 if all(fine for _line, fine in lines) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
