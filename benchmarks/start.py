"""A verified start against the bare engine's first `/health`, and the memory of both.

The bare engine has our plan's argv, and the environment of `--no-plugin`: the stand-ins that it
needs to start on a CPU, no plugin, so its processes are spawned. It is asked for `/health` every
0.1 s. `up` is timed as its user sees it: the whole process, until the vectors are proved right.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from benchmarks import machine, phases, tree
from benchmarks.bare import bare_engine
from benchmarks.errors import BenchError
from benchmarks.figures import Report, Row, compared, single
from benchmarks.home import Home, Up, home, provide
from benchmarks.options import Options
from benchmarks.phases import Starts
from launcher.cli.service_text import PLACEHOLDERS
from launcher.plan.sizes import TOGETHER
from launcher.service import ports
from launcher.service.supervisor.engine_environment import engine_environment

PROFILE, ENGINE, MODEL = "cpu-minilm", "cpu", "all-minilm-l6-v2"
TIME_LIMIT, MEMORY_LIMIT = 0.75, 0.75
START_LIMIT_S = 300.0
_IMPORTS = (
    "import sglang.srt.entrypoints.http_server, sglang.srt.managers.scheduler, "
    "sglang.srt.managers.detokenizer_manager, sglang.srt.model_loader.loader"
)
_MB = 1e6


@dataclass
class Seen:
    """Every figure, by repeat."""

    up: Starts = field(default_factory=Starts)
    bare: Starts = field(default_factory=Starts)
    up_mb: list[float] = field(default_factory=list)
    supervisor_mb: list[float] = field(default_factory=list)
    forked: list[bool] = field(default_factory=list)
    bare_mb: list[float] = field(default_factory=list)
    import_s: list[float] = field(default_factory=list)


def run(options: Options) -> Report:
    """Measure, and return what was seen.

    Raises:
        BenchError: something did not start.
    """
    provide(options.say, engine=ENGINE, model=MODEL)
    facts = machine.facts()
    repeats = options.times(usual=5)
    seen = Seen()
    with home() as place:
        argv, env, version = bare_command(place, PROFILE)
        options.say("once to compute the reference and to warm the page cache")
        place.up("bench-start", PROFILE)
        place.down("bench-start")
        for number in range(repeats):
            options.say(f"pair {number + 1} of {repeats}")
            machine.look_again(facts)
            _ours(place, argv, seen)
            _bare(place, argv, env, seen)
            seen.import_s.append(_import_s(argv[0], env))
    return Report(
        benchmark="start",
        title="A verified start of `cpu-minilm`",
        ours="`qlaunch up`, verified",
        other="the bare engine, same flags, first `/health` 200",
        made=machine.now(),
        quick=options.quick,
        machine=facts,
        versions=machine.versions({"sglang": version}),
        settings={"repeats": repeats, "argv": shown(argv), "poll_s": 0.1},
        rows=_rows(seen),
        notes=_notes(seen),
        raw=msgspec.to_builtins(seen),
    )


def bare_command(place: Home, *asked: str) -> tuple[list[str], dict[str, str], str]:
    """The argv of a plan (with `{port}`), the variables of one without the plugin, and the version.

    Raises:
        BenchError: the plugin changes more of the command line than how a call's texts are read, so
            that nothing could be compared.
    """
    ours = place.data("plan", *asked, "--port", "0")["engine"]
    bare = place.data("plan", *asked, "--port", "0", "--no-plugin")["engine"]
    if [word for word in ours["argv"] if word != f"--{TOGETHER}"] != bare["argv"]:
        raise BenchError("the plan's command line is another one without the plugin")
    picked = PLACEHOLDERS["{port}"]  # as `plan` prints it
    argv = ["{port}" if word == picked else str(word) for word in ours["argv"]]
    return argv, dict(bare["env"]), str(bare["version"])


def _ours(place: Home, argv: Sequence[str], seen: Seen) -> None:
    up = place.up("bench-start", PROFILE)
    seen.up_mb.append(tree.pss_bytes(up.pid) / _MB)
    seen.supervisor_mb.append(tree.rss_bytes(up.supervisor_pid) / _MB)
    _same_flags(argv, up)
    record = place.run_record(str(up.data["run"]))
    seen.up.add(up.seconds, phases.of_run(record))
    log = Path(record["path"], "engine.log").read_text(encoding="utf-8", errors="replace")
    seen.forked.append("children are forked" in log)
    place.down("bench-start")


def _same_flags(argv: Sequence[str], up: Up) -> None:
    executed = [str(up.port) if word == "{port}" else word for word in argv]
    if list(up.data["engine"]["argv"]) != executed:
        raise BenchError("`up` ran another command line than its plan")


def _bare(place: Home, argv: Sequence[str], env: dict[str, str], seen: Seen) -> None:
    port = ports.pick_free("127.0.0.1")
    command = [word.replace("{port}", str(port)) for word in argv]
    with bare_engine(command, env, port, place.root / "bare.log") as engine:
        healthy = engine.wait_healthy(START_LIMIT_S)
        seen.bare_mb.append(tree.pss_bytes(engine.pid) / _MB)
        seen.bare.add(healthy, phases.of_engine(engine, healthy))


def _import_s(program: str, env: dict[str, str]) -> float:
    """Seconds of a process that only imports what the engine's processes import."""
    python = Path(program).with_name("python")
    whole = engine_environment(os.environ, env, ("QLAUNCH_BENCH", "import"))
    began = time.monotonic()
    done = subprocess.run(
        [python, "-W", "ignore", "-c", _IMPORTS],
        env=whole,
        capture_output=True,
        timeout=START_LIMIT_S,
        check=False,
    )
    if done.returncode != 0:
        last = done.stderr.decode("utf-8", "replace").splitlines()[-1:]
        raise BenchError(f"the engine's modules cannot be imported: {' '.join(last)}")
    return time.monotonic() - began


def _rows(seen: Seen) -> tuple[Row, ...]:
    up, bare = seen.up, seen.bare
    return (
        compared("start", "s", up.seconds, bare.seconds, "at most", TIME_LIMIT),
        compared("memory (PSS)", "MB", seen.up_mb, seen.bare_mb, "at most", MEMORY_LIMIT),
        compared("without the checks: until `/health` 200", "s", up.healthy, bare.healthy),
        *phases.rows(up, bare),
        single("one import of the engine's modules, alone", "s", seen.import_s),
        single("the supervisor (RSS)", "MB", seen.supervisor_mb, "at most", 60.0),
    )


def _notes(seen: Seen) -> tuple[str, ...]:
    forked = sum(seen.forked)
    return (
        "Pairs of both, one after the other; the ratio is the median of the pairs' ratios.",
        f"The children were forked in {forked} of {len(seen.forked)} starts by `qlaunch up`.",
        "`up` includes the command itself, its supervisor and the checks, parity too.",
        "Its memory is read after the checks, the bare engine's before any text of a client.",
    )


def shown(argv: Sequence[str]) -> list[str]:
    """The command line without the folders of this machine."""
    return [Path(word).name if word.startswith("/") else word for word in argv]
