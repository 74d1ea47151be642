"""`python -m benchmarks.gateway_soak --minutes 30`: nine of ten texts known, for a long time.

Four clients ask a gateway before the real `cpu-minilm` for 1 to 16 texts a request, nine tenths of
them from a fixed set, whose common ones come most often, the rest new. The store is small, so that
it is full after some minutes and entries go. Every vector of the set is held against its first one.
At the end: no error, no wrong vector, the gateway's memory no larger than in the first half (first
tenth left out), the store never beyond its bound, hits as many as were asked for. Clients keep to a
pace, so that it takes about half a core and may run beside other work; `--pace 0` for all they can.

Runs of ten minutes and more are kept in `results/gateway_soak.json`.

Exit status: 0 all of it holds, 1 something does not, 2 it could not be run, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import random
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks import machine, tree
from benchmarks.errors import BenchError
from benchmarks.figures import Report, Row, single
from benchmarks.gateway import CLOSE, Asker, cosine, gateway, texts
from benchmarks.home import Home, home, provide
from benchmarks.run import BROKEN, INTERRUPTED, MET, MISSED, interrupt, keep
from benchmarks.start import ENGINE, MODEL, PROFILE
from benchmarks.table import RESULTS, section
from launcher.linux import procfs

CLIENTS = 4
KNOWN = 2000
SIZES = (1, 1, 1, 1, 4, 4, 16)
HITS = 0.9
STORE_BYTES = 32 << 20
LOOK_S = 2.0
PACE = 40.0
"""Requests a second, of all clients together."""
GROWTH, GROWTH_BYTES = 1.05, 4e6
"""Of the median of the second half over that of the first: an allocator's own noise."""
MORE_FILES = 8
"""Open files at the end beyond those of the first half: connections come and go."""
LEAST_S = 600.0
"""Of a run that is judged by its memory, and kept: vectors used last stay for a minute, and caches
of Python and SQLite fill up."""
LEAST_HITS = 0.8
"""Of all inputs: the set is warmed, but entries of its rare texts may go."""
_MB = 1e6
_KEPT_POINTS = 60
"""Of a course over time, in the record."""


@dataclass
class Seen:
    """What happened, counted by all clients."""

    inputs: int = 0
    hits: int = 0
    requests: int = 0
    problems: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    """Bytes of the gateway (PSS), every few seconds."""
    files: list[int] = field(default_factory=list)
    """Files and connections that it has open."""
    store: list[int] = field(default_factory=list)
    """Bytes of the file, its log and its index."""
    counts: dict[str, int] = field(default_factory=dict)
    """What the gateway's own metrics say of its cache at the end."""
    cores: float = 0.0
    """Processor time of engine and gateway, in cores."""
    version: str = ""
    """Of the engine."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, problem: str) -> None:
        """Keep the first problems, which is enough to fail."""
        with self.lock:
            if len(self.problems) < 20:
                self.problems.append(problem)


class Client:
    """Asks until it is told to stop.

    Args:
        ask: vectors of texts, and how many came from the cache (`Asker.ask`).
        known: the first vector of each text of the set.
        seen: counts of all clients.
        seed: of its choices.
        pause_s: from the begin of a request to that of the next one, at least.
    """

    def __init__(
        self,
        ask: Callable[[list[str]], tuple[float, list[Any], int]],
        known: dict[str, Any],
        seen: Seen,
        seed: int,
        pause_s: float = 0.0,
    ) -> None:
        self._ask, self._seen, self._pause_s = ask, seen, pause_s
        self._known, self._names = known, list(known)
        self._random = random.Random(seed)
        self._fresh = (f"new {seed} {number}: the quick brown fox" for number in itertools.count())

    def run(self, stop: threading.Event) -> None:
        """Ask again and again; what goes wrong is noted, and ends it."""
        try:
            while not stop.is_set():
                due = time.monotonic() + self._pause_s
                self._once()
                stop.wait(max(0.0, due - time.monotonic()))
        except Exception as error:  # noqa: BLE001 - whatever ends a client fails the run
            self._seen.note(f"a request failed: {type(error).__name__}: {error}")

    def _once(self) -> None:
        asked = [self._text() for _ in range(self._random.choice(SIZES))]
        _took, vectors, hits = self._ask(asked)
        for text, vector in zip(asked, vectors, strict=True):
            first = self._known.get(text)
            if first is not None and vector != first and cosine(vector, first) < CLOSE:
                self._seen.note("a vector is another than the first one of its text")
        with self._seen.lock:
            self._seen.inputs += len(asked)
            self._seen.hits += hits
            self._seen.requests += 1

    def _text(self) -> str:
        if self._random.random() >= HITS:
            return next(self._fresh)
        # The square of a uniform number: a tenth of the set gets a third of the requests.
        return self._names[int(self._random.random() ** 2 * len(self._names))]


def soak(place: Home, minutes: float, pace: float, say: Callable[[str], None]) -> Seen:
    """Run it.

    Raises:
        BenchError: something did not start, or the gateway ended.
    """
    seen = Seen()
    up = place.up("bench-soak", PROFILE)
    seen.version = str(up.data["engine"]["version"])
    model = str(place.data("plan", PROFILE)["model"])
    store = place.root / "soak" / "vectors.db"
    kept = ("--cache", str(store), "--cache-max-bytes", str(STORE_BYTES))
    with gateway(place, "bench-soak", *kept) as (url, pid):
        say(f"{KNOWN} texts are made")
        known = made_known(Asker(url, model))
        pause_s = CLIENTS / pace if pace else 0.0
        asked_by = [
            Client(Asker(url, model).ask, known, seen, seed, pause_s) for seed in range(CLIENTS)
        ]
        say(f"{minutes:g} minutes of load begin")
        meter = tree.CpuMeter(up.pid, pid)
        with asking(asked_by) as alive:
            until = time.monotonic() + 60 * minutes
            while time.monotonic() < until and alive():
                time.sleep(LOOK_S)
                look(seen, pid, store, say)
            seen.cores = (meter.percent(up.pid) + meter.percent(pid)) / 100
        seen.counts = cache_counts(url)
    return seen


def made_known(asker: Asker) -> dict[str, Any]:
    """The set of texts, each with its first vector."""
    source, known = texts(), dict[str, Any]()
    while len(known) < KNOWN:
        part = list(itertools.islice(source, 40))
        known.update(zip(part, asker.ask(part)[1], strict=True))
    return known


@contextlib.contextmanager
def asking(clients: list[Client]) -> Iterator[Callable[[], bool]]:
    """All clients at work, however it ends; yields what tells whether none of them has given up."""
    stop = threading.Event()
    threads = [threading.Thread(target=each.run, args=(stop,), daemon=True) for each in clients]
    for thread in threads:
        thread.start()
    try:
        yield lambda: all(thread.is_alive() for thread in threads)
    finally:
        stop.set()
        for thread in threads:
            thread.join(60.0)


def look(seen: Seen, pid: int, store: Path, say: Callable[[str], None]) -> None:
    """One look at the gateway and at its store; a line a minute.

    Raises:
        BenchError: the gateway is gone.
    """
    memory, files = procfs.pss_bytes("/proc", pid), open_files(pid)
    if memory is None or files is None:
        raise BenchError("the gateway ended in the middle of the load")
    seen.memory.append(float(memory))
    seen.files.append(files)
    seen.store.append(size(store))
    if len(seen.memory) % round(60 / LOOK_S) == 0:
        say(f"{seen.requests} requests, {memory / _MB:.1f} MB, store {seen.store[-1] / _MB:.1f} MB")


def open_files(pid: int) -> int | None:
    """Open files of a process; None where it is gone."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return None


def size(store: Path) -> int:
    """Bytes of the file and what lies beside it."""
    total = 0
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            total += store.with_name(store.name + suffix).stat().st_size
    return total


def cache_counts(url: str) -> dict[str, int]:
    """Events of the cache by name, as the gateway's `/metrics` has them."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        page = connection.getresponse().read().decode()
    before = 'qlaunch_gateway_cache_total{event="'
    found = {}
    for line in page.splitlines():
        if line.startswith(before):
            name, _, value = line.removeprefix(before).partition('"} ')
            found[name] = int(float(value))
    return found


def rows(seen: Seen) -> tuple[Row, ...]:
    """What was seen, judged where it can be.

    Raises:
        BenchError: it was too short to tell anything.
    """
    first, second = halves(seen.memory)
    before, after = statistics.median(first), statistics.median(second)
    if not seen.inputs:
        raise BenchError("no request was answered" + "".join(f": {each}" for each in seen.problems))
    files = max(halves(seen.files)[0])
    judged = len(seen.memory) * LOOK_S >= LEAST_S
    allowed = before * GROWTH + GROWTH_BYTES
    lost = sum(seen.counts[name] for name in ("failed", "corrupt", "dropped"))
    return (
        single("requests", "", [seen.requests]),
        single("texts", "", [seen.inputs]),
        single("errors and wrong vectors", "", [len(seen.problems)], "at most", 0),
        single("of the texts, from the cache", "%", [percent(seen)], "at least", 100 * LEAST_HITS),
        single("memory, first half: median", "MB", [before / _MB]),
        single(
            "memory, second half: median",
            "MB",
            [after / _MB],
            *(("at most", round(allowed / _MB, 1)) if judged else ()),
        ),
        single("open files at the end", "", [seen.files[-1]], "at most", files + MORE_FILES),
        single("store, at most", "MB", [max(seen.store) / _MB], "at most", STORE_BYTES / _MB),
        single("vectors written to it", "", [seen.counts["written"]]),
        single("entries that failed, were damaged or not kept", "", [lost], "at most", 0),
        single("requests that did not wait for the store", "", [seen.counts["bypassed"]]),
        single("processor time of engine and gateway", "cores", [seen.cores]),
    )


def halves(course: list[Any]) -> tuple[list[Any], list[Any]]:
    """A course without its first tenth, in two.

    Raises:
        BenchError: it is too short.
    """
    later = course[len(course) // 10 :]
    half = len(later) // 2
    if not half:
        raise BenchError("too short to tell")
    return later[:half], later[half:]


def percent(seen: Seen) -> float:
    """Inputs that came from the cache."""
    return 100 * seen.hits / seen.inputs


def thinned(course: list[float]) -> list[float]:
    """Medians of as many equal parts as a record keeps, in MB."""
    step = max(1, len(course) // _KEPT_POINTS)
    parts = [course[at : at + step] for at in range(0, len(course), step)]
    return [round(statistics.median(part) / _MB, 2) for part in parts]


def report(seen: Seen, minutes: float, pace: float, facts: dict[str, Any]) -> Report:
    """The record of a run."""
    asked = f"{pace:g} requests a second" if pace else "as many requests as they can"
    return Report(
        benchmark="gateway_soak",
        title=f"A gateway under mixed load for {minutes:g} minutes",
        ours="the gateway before `cpu-minilm`",
        made=machine.now(),
        quick=60 * minutes < LEAST_S,
        machine=facts,
        versions=machine.versions({"sglang": seen.version}),
        settings={
            "minutes": minutes,
            "pace": pace,
            "clients": CLIENTS,
            "known": KNOWN,
            "sizes": SIZES,
            "share_known": HITS,
            "store_bytes": STORE_BYTES,
        },
        rows=rows(seen),
        notes=(
            f"{CLIENTS} clients, {asked} together. Its speed is no figure: beside other work.",
            *seen.problems,
        ),
        raw={
            "memory_mb": thinned(seen.memory),
            "store_mb": thinned([float(each) for each in seen.store]),
            "cache": seen.counts,
        },
    )


def main(words: list[str]) -> int:
    """Run it as the command line says; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway_soak")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--pace", type=float, default=PACE, help="requests a second; 0: all")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the record")
    asked = parser.parse_args(words)
    if asked.minutes <= 0 or asked.pace < 0:
        parser.error("--minutes must be more than 0, and --pace no less")
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"  {time.monotonic() - began:6.1f} s  {text}", file=sys.stderr, flush=True)

    signal.signal(signal.SIGTERM, interrupt)
    try:
        provide(say, engine=ENGINE, model=MODEL)
        facts = machine.facts()
        with home() as place:
            made = report(
                soak(place, asked.minutes, asked.pace, say), asked.minutes, asked.pace, facts
            )
    except BenchError as error:
        print(f"not run: {error}", file=sys.stderr)
        return BROKEN
    except KeyboardInterrupt:
        print("interrupted: what was started has been stopped", file=sys.stderr)
        return INTERRUPTED
    if not made.quick:
        keep(made, asked.out)
    print("\n".join(section(made)), flush=True)
    return MISSED if made.missed else MET


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
