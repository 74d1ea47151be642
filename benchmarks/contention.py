"""How fast a core computes while the others do too, of its speed alone.

Processors of a virtual machine may be two halves of one core, and cores share caches and power. The
engine's own Python computes an encoder's layers on one thread, alone and one process a core at the
same time, in turn, in the dtype that the engine serves in.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks.errors import BenchError
from benchmarks.home import Home
from benchmarks.start import PROFILE
from launcher.service.supervisor.engine_environment import engine_environment

SCRIPT = Path(__file__).with_name("core_inside.py")
LIMIT_S = 120.0


class Cores:
    """One process a core, kept until the end: starting one takes longer than it computes."""

    def __init__(self, workers: Sequence[subprocess.Popen[str]]) -> None:
        self._workers = workers

    def together(self, *, slices: int, seconds: float) -> float:
        """Speed of a core while all compute, over that of one alone: slices of both, in turn.

        Raises:
            BenchError: a process ended.
        """
        alone, beside = [], []
        for number in range(slices):
            alone += self.rates([number % len(self._workers)], seconds)
            beside += self.rates(range(len(self._workers)), seconds)
        return statistics.mean(beside) / statistics.mean(alone)

    def rates(self, which: Iterable[int], seconds: float) -> list[float]:
        """Rates of some of them, which begin at the same time.

        Raises:
            BenchError: one of them ended without.
        """
        asked = [self._workers[number] for number in which]
        for worker in asked:
            assert worker.stdin is not None
            worker.stdin.write(f"{seconds:g}\n")
            worker.stdin.flush()
        try:
            return [float(_line(worker)) for worker in asked]
        except ValueError as error:
            raise BenchError(f"the engine's Python printed no rate: {error}") from error


@contextlib.contextmanager
def engine_cores(place: Home, cores: int) -> Iterator[Cores]:
    """The engine's own Python on each core, computing as the engine serves.

    Raises:
        BenchError: it does not start.
    """
    engine = place.data("plan", PROFILE, "--port", "0")["engine"]
    python = Path(engine["argv"][0]).with_name("python")
    environment = engine_environment(os.environ, engine["env"], ("QLAUNCH_BENCH", "contention"))
    dtype = engine["argv"][engine["argv"].index("--dtype") + 1]
    with started([str(python), str(SCRIPT), dtype], cores, environment) as made:
        yield made


@contextlib.contextmanager
def started(argv: Sequence[str], count: int, environment: dict[str, str] | None) -> Iterator[Cores]:
    """So many processes of `argv`, ready.

    Raises:
        BenchError: one of them ended before it was.
    """
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(_worker(argv, environment)) for _ in range(count)]
        for worker in workers:
            _line(worker)
        yield Cores(workers)


@contextlib.contextmanager
def _worker(
    argv: Sequence[str], environment: dict[str, str] | None
) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _line(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        code = worker.wait(LIMIT_S)
        raise BenchError(f"the engine's Python ended with {code}, and computed nothing")
    return line
