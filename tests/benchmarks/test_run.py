from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks import home, machine, run, tree
from benchmarks.bare import bare_engine
from benchmarks.errors import BenchError
from benchmarks.figures import Report, single
from benchmarks.home import Home
from benchmarks.options import Options
from benchmarks.start import bare_command
from launcher.bench import unsupervised
from launcher.cli.service_text import PLACEHOLDERS
from launcher.linux import processes
from launcher.service import ports
from tests.patience import HANG_S, PATIENCE_S

ROOT = Path(__file__).parents[2]
FAKE = ROOT / "tests" / "fake_engine.py"


def engine(*switches: str, port: int) -> Sequence[str]:
    return [sys.executable, "-S", str(FAKE), "--port", str(port), *switches]


def test_a_bare_engine_is_timed_measured_and_stopped(tmp_path: Path) -> None:
    port = ports.pick_free("127.0.0.1")
    with bare_engine(engine("--warm-up", "0.3", port=port), {}, port, tmp_path / "log") as found:
        seconds = found.wait_healthy(PATIENCE_S)
        assert 0.3 <= seconds < PATIENCE_S
        assert tree.pss_bytes(found.pid) > 1_000_000
        assert tree.CpuMeter(found.pid).percent(found.pid) >= 0
        identity = processes.process_id(found.pid)
        assert found.phases["loading"] <= seconds + 0.001  # it is rounded
    assert not processes.is_alive(identity)
    ports.check_free("127.0.0.1", port)
    with pytest.raises(BenchError, match=r"memory .* cannot be read"):
        tree.pss_bytes(found.pid)


def test_the_port_that_a_plan_leaves_open_is_left_open() -> None:
    """`plan` prints words in its place, and `make bench ARGS=start` ended with an error."""
    argv = ["sglang", "--port", PLACEHOLDERS["{port}"]]
    planned = {"engine": {"argv": argv, "env": {"A": "b"}, "version": "1"}}
    place = cast("Home", SimpleNamespace(data=lambda *_words: planned))
    assert bare_command(place, "p") == (["sglang", "--port", "{port}"], {"A": "b"}, "1")


def test_an_engine_that_ends_in_its_start_says_its_last_words(tmp_path: Path) -> None:
    port = ports.pick_free("127.0.0.1")
    command = [sys.executable, "-c", "print('first'); print('no such flag'); raise SystemExit(2)"]
    with (
        pytest.raises(BenchError, match="ended in its start: no such flag"),
        bare_engine(command, {}, port, tmp_path / "log") as found,
    ):
        found.wait_healthy(PATIENCE_S)


def test_an_engine_that_is_never_healthy_is_given_up(tmp_path: Path) -> None:
    port = ports.pick_free("127.0.0.1")
    with (
        pytest.raises(BenchError, match=r"not healthy within 0\.5 s"),
        bare_engine(engine("--never-ready", port=port), {}, port, tmp_path / "log") as found,
    ):
        found.wait_healthy(0.5)
    ports.check_free("127.0.0.1", port)


def test_an_engine_that_takes_all_memory_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unsupervised, "FLOOR_BYTES", 2**60)
    port = ports.pick_free("127.0.0.1")
    with (
        pytest.raises(BenchError, match="nearly all the memory"),
        bare_engine(engine("--never-ready", port=port), {}, port, tmp_path / "log") as found,
    ):
        found.wait_healthy(PATIENCE_S)
    assert not processes.is_alive(processes.process_id(found.pid))


ORPHANS = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_children_of_an_engine_that_dies_at_once_do_not_stay(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with bare_engine([sys.executable, "-c", ORPHANS], {}, 1, log):
        deadline = time.monotonic() + PATIENCE_S
        while not log.read_text().strip():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        child = processes.process_id(int(log.read_text()))
        assert processes.is_alive(child)
    assert not processes.is_alive(child)  # its parent has no handler for SIGTERM and died of it


def test_settings_of_the_caller_do_not_reach_a_benchmark() -> None:
    given = {"QLAUNCH_PORT": "1", "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/bin"}
    assert home.clean_environment(given) == {"PATH": "/bin"}


def test_a_home_shares_engines_and_models_and_goes_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path))
    with home.home() as place:
        assert (place.root / "data").resolve() == tmp_path / "data"
        assert place.environment["QLAUNCH_HOME"] == str(place.root)
        assert place.data("ps")["services"] == []
        with pytest.raises(BenchError, match=r"`qlaunch status nobody` ended with 3: .*'nobody'"):
            place.data("status", "nobody")
        with pytest.raises(BenchError, match="took longer than"):
            place.data("ps", limit_s=0.001)
    assert not place.root.exists()
    assert (tmp_path / "data").is_dir()


def test_the_machine_is_described_without_its_name() -> None:
    facts = machine.facts()
    assert facts["threads"] >= 1
    assert facts["ram_bytes"] > 0
    assert facts["idle_before"] is None or 0 <= facts["idle_before"] <= 1
    assert os.uname().nodename not in str({**facts, "cpu": "", "system": "", "machine": ""})


@pytest.mark.parametrize("arguments", [["nothing"], ["--repeats", "0"], ["--repeats", "x"]])
def test_bad_arguments_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run.main(arguments)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "now", "kept"),
    [(0.9, 0.5, 0.5), (0.4, 0.5, 0.4), (None, 0.5, 0.5), (None, None, None)],
)
def test_the_busiest_moment_counts(
    before: float | None, now: float | None, kept: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "idle_share", lambda _seconds: now)
    facts = {"idle_before": before}
    machine.look_again(facts)
    assert facts["idle_before"] == kept


class Fake:
    def __init__(self, answer: Report | BaseException) -> None:
        self.answer = answer

    def run(self, options: Options) -> Report:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def fake(limit: float) -> Report:
    rows = (single("x", "s", [1.0], "at most", limit),)
    return Report(benchmark="cli", title="t", ours="ours", machine=machine.facts(), rows=rows)


@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [
        (2.0, 0, "the machine was busy (50 % idle before)"),
        (0.5, 1, ""),
        (BenchError("it did not start"), 2, "cli: it did not start"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_the_exit_status_tells_the_outcome(
    answer: float | BaseException,
    status: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(machine, "idle_share", lambda _seconds: 0.5)
    given = fake(answer) if isinstance(answer, float) else answer
    monkeypatch.setitem(sys.modules, "benchmarks.cli", cast("Any", Fake(given)))
    try:
        assert run.main(["cli", "--out", str(tmp_path)]) == status
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert (tmp_path / "cli.json").exists() is (status < 2)
    assert says in capsys.readouterr().err


def test_the_command_line_is_measured_end_to_end(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.run", "cli", "--quick", "--out", str(tmp_path / "out")],
        cwd=ROOT,
        env=os.environ | {"QLAUNCH_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr  # how fast is not for a test to say
    assert "| `qlaunch --help` |" in done.stdout
    assert (tmp_path / "out" / "cli.json").exists()
