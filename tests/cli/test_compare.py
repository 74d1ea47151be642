"""`compare` and `tune` as commands: what they refuse, keep, print and leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.linux import processes
from tests.children import ignoring
from tests.cli.commandline import Run
from tests.cli.conftest import SetMachine
from tests.cli.services import leave_service
from tests.patience import HANG_S
from tests.samples import machine
from tests.service.home import eventually

ROOT = Path(__file__).parents[2]
QUICK = ("--no-quality", "--quiet", "--json", "--repeats", "1")


class Command:
    """`compare` in a process of its own, with the fake engine behind it."""

    def __init__(
        self,
        home: Path,
        modes: dict[str, list[str] | None],
        *words: str,
        ignored: tuple[signal.Signals, ...] = (),
    ) -> None:
        env = {name: value for name, value in os.environ.items() if name[:8] != "QLAUNCH_"}
        self.home = home
        self.process = subprocess.Popen(
            [
                *(*ignoring(*ignored), sys.executable, "-m", "tests.cli.compare_program"),
                str(home),
                *(json.dumps(modes), "compare", *QUICK, *words),
            ],
            cwd=ROOT,
            env={**env, "QLAUNCH_HOME": str(home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def kept(self) -> dict[str, Any] | None:
        """The document on disk."""
        found = list((self.home / "state" / "comparisons").glob("*/comparison.json"))
        return json.loads(found[0].read_text()) if found else None

    def rows(self) -> int:
        document = self.kept() or {"modes": []}
        return sum(len(mode["rows"]) for mode in document["modes"])

    def finish(self) -> tuple[int, dict[str, Any]]:
        out, err = self.process.communicate(timeout=HANG_S)
        assert "Traceback" not in err, err
        return self.process.returncode, json.loads(out)

    def assert_nothing_left(self) -> None:
        marks = (f"QLAUNCH_TEST_HOME={self.home}", f"QLAUNCH_HOME={self.home}")
        eventually(lambda: not [p for mark in marks for p in processes.marked(mark)])
        assert not list(self.home.rglob("*.tmp"))


def test_two_modes_and_one_that_cannot_run(tmp_path: Path) -> None:
    command = Command(
        tmp_path, {"one": [], "two": [], "big": None}, "--requests", "20", "--clients", "1,4"
    )
    code, document = command.finish()
    assert (code, document["status"]) == (0, "ok")
    data = document["data"]
    assert [mode["outcome"] for mode in data["modes"]] == ["measured", "measured", "cannot_run"]
    assert data["modes"][2]["cells"] == []
    assert data["winner"] in ("one", "two")
    assert data["remeasured"]["mode"] == data["winner"]
    one = data["modes"][0]
    assert [row["requests"] for row in one["rows"]] == [20, 20]
    assert one["rows"][0]["tokens_counted"] == 128
    assert all((tmp_path / "state" / "runs" / run).is_dir() for run in one["runs"])
    assert one["ram_peak_bytes"] > 0
    assert command.kept() == {key: data[key] for key in command.kept() or {}}
    command.assert_nothing_left()


@pytest.mark.parametrize(
    ("number", "ignored"),
    [(signal.SIGINT, ()), (signal.SIGTERM, ()), (signal.SIGTERM, (signal.SIGINT, signal.SIGHUP))],
    ids=["int", "term", "term-in-the-background"],
)
def test_an_interrupt_keeps_what_was_measured_and_leaves_nothing(
    number: signal.Signals, ignored: tuple[signal.Signals, ...], tmp_path: Path
) -> None:
    words = ("--requests", "1000000", "--seconds", "0.5")
    command = Command(tmp_path, {"one": [], "two": []}, *words, ignored=ignored)
    eventually(lambda: command.rows() >= 4, HANG_S)  # three levels of `one`, the first of `two`
    command.process.send_signal(number)
    code, document = command.finish()
    assert code == 130
    assert document["status"] == "error"
    assert document["errors"][0]["code"] == "interrupted"
    kept = command.kept()
    assert kept is not None
    assert kept["complete"] is False
    assert "interrupted" in kept["interrupted"]
    assert [mode["outcome"] for mode in kept["modes"]][1] == "partial"
    assert document["data"]["modes"] == kept["modes"]
    assert kept["modes"][1]["rows"][0]["embeddings_per_s"] > 0
    command.assert_nothing_left()


def test_an_engine_that_dies_in_the_middle(tmp_path: Path) -> None:
    dies = ["--die-after", "3.5"]
    command = Command(
        tmp_path, {"frail": dies, "sound": []}, "--requests", "1000000", "--seconds", "1"
    )
    code, document = command.finish()
    assert (code, document["status"]) == (10, "partial")
    frail, sound = document["data"]["modes"]
    assert frail["outcome"] in ("partial", "failed")
    # In a level, or between two.
    assert "requests failed" in frail["reason"] or "did not count" in frail["reason"]
    assert sound["outcome"] == "measured"
    assert document["data"]["winner"] == "sound"
    assert document["errors"][0]["code"] == "mode_failed"
    command.assert_nothing_left()


def test_a_mode_that_does_not_start(tmp_path: Path) -> None:
    command = Command(
        tmp_path, {"broken": ["--exit-code", "3"], "sound": []}, "--requests", "5", "--clients", "1"
    )
    code, document = command.finish()
    assert code == 10
    assert [mode["outcome"] for mode in document["data"]["modes"]] == ["failed", "measured"]
    command.assert_nothing_left()


def test_company_is_refused(run: Run, home: Path, on: SetMachine) -> None:
    on(machine())
    own = processes.process_id(os.getpid())
    leave_service("mine", "20260101T000000Z-mine-0001", "ready", supervisor=own)
    for words in (["compare", "cpu-minilm"], ["tune", "cpu-minilm"]):
        answer = run(*words, "--json")
        assert (answer.code, answer.error["code"]) == (9, "not_quiet")
        assert "mine" in answer.error["message"]


def test_nothing_that_runs_here_is_no_comparison(run: Run, home: Path, on: SetMachine) -> None:
    on(machine())
    answer = run("compare", "t4-fp16", "h100-bf16", "--json")
    assert (answer.code, answer.error["code"]) == (4, "does_not_fit")
    modes = answer.data["modes"]
    assert [mode["outcome"] for mode in modes] == ["cannot_run"] * 2
    assert all("GPU" in mode["reason"] for mode in modes)


@pytest.mark.parametrize(
    "words",
    [
        ["compare", "no-such-profile"],
        ["compare", "cpu-minilm", "--clients", "0"],
        ["compare", "cpu-minilm", "--clients", "one"],
        ["compare", "cpu-minilm", "--repeats", "0"],
        ["compare", "cpu-minilm", "--html", "/no/such/folder/x.html"],
        ["tune", "no-such-profile"],
        ["tune", "cpu-minilm", "--trials", "0"],
        ["tune"],
        ["tune", "cpu-minilm", "--max-p95", "0"],
        ["tune", "cpu-minilm", "--output", "x.txt"],
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_said_before_anything_starts(
    run: Run, home: Path, on: SetMachine, words: list[str]
) -> None:
    on(machine())
    assert run(*words, "--json").code == 2
    assert not (home / "state" / "runs").exists()
