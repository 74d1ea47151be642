from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from launcher.paths import dirs
from tests.cli.commandline import Run
from tests.cli.services import leave_run, leave_service

OLD, LAST, OTHER = (
    "20260101T000000Z-svc-0001",
    "20260102T000000Z-svc-0002",
    "20260103T000000Z-other-0003",
)


@pytest.fixture(autouse=True)
def _service(home: Path) -> None:
    leave_run(OLD, "svc", "old\n")
    leave_run(LAST, "svc", "".join(f"line {n}\n" for n in range(100)) + "héllo ✓\n")
    leave_run(OTHER, "other", "not yours\n")
    leave_service("svc", LAST)


def test_the_last_fifty_lines_are_shown(run: Run) -> None:
    lines = run("logs", "svc").out.splitlines()
    assert len(lines) == 50
    assert (lines[0], lines[-1]) == ("line 51", "héllo ✓")


def test_the_document_holds_lines_and_run(run: Run) -> None:
    data = run("logs", "svc", "-n", "2", "--json").data
    assert data == {"run": LAST, "lines": ["line 99", "héllo ✓"]}


def test_no_lines_are_no_error(run: Run) -> None:
    assert run("logs", "svc", "-n", "0", "--json").data["lines"] == []


def test_the_log_of_a_removed_run_is_an_error(run: Run) -> None:
    """It printed nothing, and exited 0."""
    shutil.rmtree(dirs().runs / LAST)
    for words in (["logs", "svc"], ["logs", "svc", "--follow"], ["logs", "svc", "-n", "5"]):
        answer = run(*words, "--json")
        assert (answer.code, answer.error["code"]) == (2, "log_gone")
        assert str(dirs().runs / LAST) in answer.error["message"]


def test_a_removed_log_of_a_run_that_is_over_is_an_error(run: Run) -> None:
    (dirs().runs / LAST / "engine.log").unlink()
    answer = run("logs", "svc", "--json")
    assert (answer.code, answer.error["code"]) == (2, "log_gone")


def test_following_what_is_over_ends_by_itself(run: Run) -> None:
    answer = run("logs", "svc", "--follow", "-n", "2")
    assert (answer.code, answer.out) == (0, "line 99\nhéllo ✓\n")


def test_following_in_json_is_one_object_a_line_and_nothing_else(run: Run) -> None:
    answer = run("logs", "svc", "-f", "-n", "2", "--json")
    assert answer.code == 0
    assert [json.loads(line) for line in answer.out.splitlines()] == [
        {"line": "line 99"},
        {"line": "héllo ✓"},
    ]


def test_an_interrupt_ends_following_without_a_document(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("launcher.service.logs.time.sleep", interrupt)
    monkeypatch.setattr("launcher.cli.logs.at_work", lambda _: True)
    answer = run("logs", "svc", "-f", "-n", "1", "--json")
    assert answer.code == 130
    assert answer.out == '{"line":"héllo ✓"}\n'


def test_an_older_run_by_its_id(run: Run) -> None:
    assert run("logs", "svc", "--run", OLD).out == "old\n"
    assert run("logs", "svc", "--run", "20260101", "-f").out == "old\n"


def test_a_run_of_another_service_is_refused(run: Run) -> None:
    answer = run("logs", "svc", "--run", OTHER, "--json")
    assert answer.code == 2
    assert "is one of service 'other'" in answer.error["message"]


def test_a_run_that_is_not_there(run: Run) -> None:
    answer = run("logs", "svc", "--run", "2030", "--json")
    assert answer.code == 2
    assert answer.error["code"] == "run_unknown"


def test_a_run_that_is_over_without_a_log_is_an_error(run: Run) -> None:
    """Nothing was printed, as if the engine had been content."""
    (dirs().runs / LAST / "engine.log").unlink()
    for words in (["logs", "svc"], ["logs", "svc", "-f"]):
        answer = run(*words, "--json")
        assert (answer.code, answer.error["code"]) == (2, "log_gone")


def test_an_engine_that_has_said_nothing_yet_has_an_empty_log(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.cli.logs.at_work", lambda _: True)
    (dirs().runs / LAST / "engine.log").unlink()
    assert run("logs", "svc", "--json").data["lines"] == []


TIMED = """\
a line before any time
[2026-01-02 10:00:00] Load weight begin
[2026-01-02 10:00:05] Scheduler hit an exception: Traceback (most recent call last):
  File "x.py", line 1
RuntimeError: it
[2026-01-02 10:00:10] INFO:     Uvicorn running
no time
"""


@pytest.mark.parametrize(
    ("since", "first"),
    [
        ("2026-01-02T10:00:05", "[2026-01-02 10:00:05] Scheduler"),
        ("2026-01-02 10:00:06", "[2026-01-02 10:00:10] INFO:"),
        ("2026-01-01", "[2026-01-02 10:00:00] Load"),
    ],
)
@pytest.mark.parametrize("more", [(), ("-f",)])
def test_since_a_time(run: Run, since: str, first: str, more: tuple[str, ...]) -> None:
    (dirs().runs / LAST / "engine.log").write_text(TIMED)
    lines = run("logs", "svc", "--since", since, *more).out.splitlines()
    assert lines[0].startswith(first)
    assert lines[-1] == "no time"


def test_since_reaches_into_the_rotated_part_and_n_cuts_it(run: Run) -> None:
    folder = dirs().runs / LAST
    (folder / "engine.log.1").write_text(TIMED)
    (folder / "engine.log").write_text("[2026-01-02 11:00:00] later\n")
    arguments = ("logs", "svc", "--since", "2026-01-02 10:00:10")
    assert len(run(*arguments, "--json").data["lines"]) == 3
    assert run(*arguments, "-n", "1").out == "[2026-01-02 11:00:00] later\n"
    assert run(*arguments, "-n", "1", "-f").out == "[2026-01-02 11:00:00] later\n"


def test_since_a_while_ago(run: Run) -> None:
    (dirs().runs / LAST / "engine.log").write_text(TIMED)
    assert run("logs", "svc", "--since", "10m", "--json").data["lines"] == []
    assert len(run("logs", "svc", "--since", "99999d", "--json").data["lines"]) == 6


@pytest.mark.parametrize("since", ["yesterday", "10", "", "-5m", "999999999d", "2026-13-01"])
def test_a_since_that_is_no_time_is_refused(run: Run, since: str) -> None:
    answer = run("logs", "svc", f"--since={since}", "--json")
    assert answer.code == 2
    assert "--since" in answer.error["message"]


def test_the_log_of_the_engine_that_died_last(run: Run) -> None:
    folder = dirs().runs / LAST
    (folder / "crash-2.log").write_text("newer\nlast words\n")
    (folder / "crash-1.log").write_text("older\n")
    os.utime(folder / "crash-1.log", (1, 1))
    answer = run("logs", "svc", "--crash", "--json")
    assert answer.data["lines"] == ["newer", "last words"]
    assert answer.data["file"].endswith("crash-2.log")
    assert run("logs", "svc", "--crash", "-n", "1").out == "last words\n"


def test_without_a_death_there_is_no_crash_log(run: Run) -> None:
    answer = run("logs", "svc", "--crash", "--json")
    assert (answer.code, answer.error["code"]) == (2, "no_crash_log")
    assert run("logs", "svc", "--crash", "-f").code == 2
