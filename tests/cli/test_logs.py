from __future__ import annotations

import json
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
    monkeypatch.setattr("launcher.cli.logs.FINAL", frozenset())
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


def test_a_run_without_a_log_is_empty(run: Run) -> None:
    (dirs().runs / LAST / "engine.log").unlink()
    assert run("logs", "svc", "--json").data["lines"] == []
    assert run("logs", "svc", "-f", "--json").out == ""
