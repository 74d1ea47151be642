"""How long the command line itself takes: `qlaunch --help` and `qlaunch ps`.

Whole processes, from fork to exit, beside a Python that does nothing. Services are known by their
state files, so three of those stand for three services.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks import machine
from benchmarks.errors import BenchError
from benchmarks.figures import Report, single
from benchmarks.home import QLAUNCH, Home, home
from benchmarks.options import Options
from launcher.documents.plan import MemoryPrediction
from launcher.documents.run import Peak, Timings
from launcher.documents.service_state import ExecutedEngine, ServiceState, State
from launcher.documents.smoke import Check, SmokeReport
from launcher.linux import processes
from launcher.linux.files import write_atomic
from launcher.paths import private_dir
from launcher.service import store
from launcher.units import now

HELP_S, PS_S = 0.15, 0.25
_STATES: tuple[State, ...] = ("ready", "ready", "stopped")


def run(options: Options) -> Report:
    """Measure, and return what was seen.

    Raises:
        BenchError: a command failed.
    """
    facts = machine.facts()
    repeats = options.times(usual=25, quick=3)
    with home() as place:
        _know_services(place)
        commands: dict[str, list[str]] = {
            "nothing": [sys.executable, "-I", "-c", "pass"],
            "help": [str(QLAUNCH), "--help"],
            "ps": [str(QLAUNCH), "ps"],
        }
        options.say(f"each command {repeats} times, in turn")
        shown = {name: _once(command, place)[1] for name, command in commands.items()}  # bytecode
        if shown["ps"].count(b"bench-") != sum(state == "ready" for state in _STATES):
            raise BenchError("`qlaunch ps` does not show the services it should know")
        seen: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(repeats):
            for name, command in commands.items():
                seen[name].append(_once(command, place)[0])
    return Report(
        benchmark="cli",
        title="The command line",
        ours="whole process",
        other="a Python that does nothing",
        made=machine.now(),
        quick=options.quick,
        machine=facts,
        versions=machine.versions(),
        settings={"repeats": repeats, "services": len(_STATES)},
        rows=(
            single("`qlaunch --help`", "s", seen["help"], "at most", HELP_S, other=seen["nothing"]),
            single(
                f"`qlaunch ps`, {len(_STATES)} services known",
                "s",
                seen["ps"],
                "at most",
                PS_S,
                other=seen["nothing"],
            ),
        ),
        notes=(f"Medians of {repeats} with bytecode cached, the three commands in turn.",),
        raw={f"{name}_s": values for name, values in seen.items()},
    )


def _once(command: Sequence[str], place: Home) -> tuple[float, bytes]:
    """Seconds of one process, and what it printed."""
    began = time.perf_counter()
    done = subprocess.run(
        command, env=place.environment, stdout=subprocess.PIPE, timeout=30, check=False
    )
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise BenchError(f"`{Path(command[0]).name} {' '.join(command[1:])}` failed")
    return seconds, done.stdout


def _know_services(place: Home) -> None:
    """Leave the state files of services behind, as their supervisors write them."""
    alive = processes.process_id(os.getpid())
    checks = tuple(Check(name=f"check_{n}", ok=True, detail="as it should be") for n in range(10))
    for number, state in enumerate(_STATES):
        name = f"bench-{number}"
        for part in ("state", "state/services", f"state/services/{name}"):
            private_dir(place.root / part)
        found = ServiceState(
            version=store.VERSION,
            service=name,
            profile="cpu-minilm",
            state=state,
            since=now(),
            run=f"20260101T000000Z-{name}-0000",
            endpoint=f"http://127.0.0.1:{30000 + number}/v1",
            supervisor=alive,
            engine=alive,
            engine_plan=ExecutedEngine(release="cpu", version="0", argv=("engine",) * 40),
            predicted=MemoryPrediction(ram_bytes=1, gpu_bytes=None),
            measured=Peak(ram_peak_bytes=1, method={"ram": "pss"}),
            timings=Timings(ready_s=1.0, verified_s=2.0),
            smoke=SmokeReport(ok=True, checks=checks),
        )
        path = place.root / "state" / "services" / name / "state.json"
        write_atomic(path, msgspec.json.encode(found))
