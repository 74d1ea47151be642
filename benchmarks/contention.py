"""How fast a core computes while the others do too, of its speed alone.

Processors of a virtual machine may be two halves of one core, and cores share caches and power. The
engine's own Python computes an encoder's layers on one thread, first alone, then one process a core
at the same time, in the dtype that the engine serves in.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.errors import BenchError
from benchmarks.home import Home
from benchmarks.start import PROFILE
from launcher.service.supervisor.engine_environment import engine_environment

SCRIPT = Path(__file__).with_name("core_inside.py")
LIMIT_S = 120.0


def together(place: Home, cores: int, *, rounds: int, seconds: float) -> list[float]:
    """Speed of a core while `cores` of them compute, over that of one alone, by round.

    Raises:
        BenchError: the engine's Python does not compute.
    """
    engine = place.data("plan", PROFILE, "--port", "0")["engine"]
    python = Path(engine["argv"][0]).with_name("python")
    environment = engine_environment(os.environ, engine["env"], ("QLAUNCH_BENCH", "contention"))
    dtype = engine["argv"][engine["argv"].index("--dtype") + 1]
    argv = [str(python), str(SCRIPT), f"{seconds:g}", dtype]
    shares = []
    for _ in range(rounds):
        alone = rates(argv, 1, environment)
        shares.append(statistics.mean(rates(argv, cores, environment)) / alone[0])
    return shares


def rates(argv: Sequence[str], count: int, environment: dict[str, str] | None) -> list[float]:
    """Rates that as many processes print, which begin at the same time.

    Raises:
        BenchError: one of them ended without.
    """
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(_worker(argv, environment)) for _ in range(count)]
        for worker in workers:
            _line(worker)
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
        try:
            return [float(_line(worker)) for worker in workers]
        except ValueError as error:
            raise BenchError(f"the engine's Python printed no rate: {error}") from error


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
