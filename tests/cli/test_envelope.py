"""The contract of docs/cli.md: one document for every command and error, pinned exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from launcher.cli.main import cli
from launcher.cli.manpage import EXIT_CODES
from launcher.cli.result import Result, failure
from launcher.errors import ExitCode, QlaunchError
from tests.cli.commandline import Run
from tests.cli.conftest import SetMachine
from tests.samples import machine
from tools import cli_reference

NAMES = [name for name, _command, _keys in cli_reference.commands()]

SAMPLES: dict[str, tuple[list[str], int]] = {
    "up": (["up", "no-such-profile"], 2),
    "down": (["down", "absent"], 3),
    "restart": (["restart", "absent"], 3),
    "scale": (["scale", "absent", "2"], 3),
    "forget": (["forget", "absent"], 3),
    "ps": (["ps", "--all"], 0),
    "status": (["status", "absent"], 3),
    "top": (["top", "absent", "--once"], 3),
    "logs": (["logs", "absent"], 3),
    "smoke": (["smoke", "absent"], 3),
    "verify": (["verify", "absent"], 3),
    "bench": (["bench", "absent"], 3),
    "client": (["client", "absent"], 3),
    "embed": (["embed", "absent.txt", "-o", "absent.jsonl", "absent"], 2),
    "compare": (["compare", "no-such-profile"], 2),
    "tune": (["tune", "no-such-profile"], 2),
    "plan": (["plan", "cpu-minilm"], 0),
    "recommend": (["recommend"], 0),
    "prove": (["prove", "--profile", "absent"], 2),
    "profiles list": (["profiles", "list"], 0),
    "profiles show": (["profiles", "show", "cpu-minilm"], 0),
    "profiles new": (["profiles", "new", "No Name"], 2),
    "profiles edit": (["profiles", "edit", "absent"], 2),
    "profiles path": (["profiles", "path"], 0),
    "profiles validate": (["profiles", "validate", "cpu-minilm", "absent"], 2),
    "engine list": (["engine", "list"], 0),
    "engine install": (["engine", "install", "turing"], 5),
    "engine remove": (["engine", "remove", "cpu"], 0),
    "model list": (["model", "list"], 0),
    "model pull": (["model", "pull", "./absent"], 2),
    "model inspect": (["model", "inspect", "./absent"], 2),
    "model quantize": (["model", "quantize", "./absent", "--to", "int8"], 2),
    "model remove": (["model", "remove", "./absent"], 2),
    "doctor": (["doctor", "--offline", "--engine", "absent"], 5),
    "gateway": (["gateway", "absent", "--cache", "none"], 3),
    "cache stats": (["cache", "stats"], 0),
    "cache purge": (["cache", "purge"], 0),
    "cache warm": (["cache", "warm", "--model", "m", "./absent"], 2),
    "runs list": (["runs", "list"], 0),
    "runs show": (["runs", "show"], 2),
    "runs report": (["runs", "report"], 2),
    "runs diff": (["runs", "diff", "a"], 2),
    "runs prune": (["runs", "prune", "--keep", "3"], 0),
    "export systemd": (["export", "systemd", "cpu-minilm"], 5),
    "export compose": (["export", "compose", "cpu-minilm"], 5),
    "export k8s": (["export", "k8s", "cpu-minilm"], 5),
    "export skypilot": (["export", "skypilot", "cpu-minilm"], 5),
    "bundle make": (["bundle", "make", "out.tar", "--profile", "absent"], 2),
    "bundle install": (["bundle", "install", "./absent"], 2),
    "prune": (["prune"], 0),
    "upgrade": (["upgrade"], 0),
    "completion": (["completion", "bash"], 0),
    "help": (["help", "up"], 0),
}
"""One quick call of each command, and its exit code."""


@pytest.fixture(autouse=True)
def _elsewhere(home: Path, on: SetMachine) -> None:
    on(machine())


@pytest.mark.parametrize("name", SAMPLES)
def test_every_command_answers_with_one_document(name: str, run: Run) -> None:
    words, code = SAMPLES[name]
    answer = run(*words, "--json")
    assert answer.document["command"] == name
    assert answer.code == code


@pytest.mark.parametrize("name", SAMPLES)
def test_text_goes_to_stdout_and_errors_to_stderr(name: str, run: Run) -> None:
    words, code = SAMPLES[name]
    answer = run(*words)
    assert ("Error: " in answer.err) == (code != 0)
    assert "Error: " not in answer.out
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_a_usage_error_in_the_same_form(name: str, run: Run) -> None:
    answer = run(*name.split(), "--no-such-option", "--json")
    assert answer.code == 2
    assert answer.document["command"] == name
    assert answer.error["code"] == "usage"
    assert "--no-such-option" in answer.error["message"]
    assert answer.error["fix"] == f"see `qlaunch {name} --help`"


@pytest.mark.parametrize(
    ("words", "command", "says"),
    [
        (["--json"], "qlaunch", "Missing command"),
        (["--json", "stauts"], "qlaunch", "did you mean `status`"),
        (["stauts", "--json"], "qlaunch", "did you mean `status`"),
        (["engine", "--json"], "engine", "Missing command"),
        (["engine", "lst", "--json"], "engine", "did you mean `list`"),
        (["--json", "engine", "list", "surplus"], "engine list", "surplus"),
        (["logs", "svc", "-n", "many", "--json"], "logs", "'many' is not a valid"),
        (["logs", "svc", "-n", "-1", "--json"], "logs", "-1 is not in the range"),
        (["down", "--json"], "down", "name the services"),
        (["down", "svc", "--all", "--json"], "down", "name the services"),
        (["status", "--json"], "status", "Missing argument 'SERVICE'"),
        (["completion", "tcsh", "--json"], "completion", "tcsh"),
        (["up", "one", "two", "--json"], "up", "one profile at a time"),
        (["runs", "prune", "--json"], "runs prune", "--keep"),
        (["smoke", "--json"], "smoke", "name one running service"),
        (["smoke", "one", "--json", "--", "--log-level", "debug"], "smoke", "shape a start"),
        (["smoke", "one", "--json", "--dtype", "int8"], "smoke", "shape a start"),
    ],
)
def test_errors_before_the_body_have_the_same_form(
    words: list[str], command: str, says: str, run: Run
) -> None:
    answer = run(*words)
    assert answer.code == 2
    assert answer.document["command"] == command
    assert answer.error["code"] == "usage"
    assert says in answer.error["message"]
    assert answer.err == ""


@pytest.mark.parametrize(
    "words",
    [["--json", "engine", "list"], ["engine", "--json", "list"], ["engine", "list", "--json"]],
)
def test_json_counts_wherever_it_stands(words: list[str], run: Run) -> None:
    assert run(*words).document["command"] == "engine list"


def test_json_after_the_dashes_is_the_engines_own_affair(run: Run) -> None:
    answer = run("up", "cpu-minilm", "--", "--json")
    assert answer.code == 5
    assert answer.out == ""
    assert answer.err.startswith("Error: --json is an abbreviation")


@pytest.mark.parametrize("words", [[], ["engine"], ["runs"]], ids=" ".join)
def test_a_group_alone_shows_its_help_and_is_no_success(words: list[str], run: Run) -> None:
    answer = run(*words)
    assert answer.code == 2
    assert answer.err.startswith("Usage: qlaunch")
    assert answer.out == ""


@pytest.mark.parametrize("words", [["--help"], ["up", "-h"], ["--version"], ["runs", "--help"]])
def test_help_and_version_succeed_on_stdout(words: list[str], run: Run) -> None:
    answer = run(*words)
    assert answer.code == 0
    assert "qlaunch" in answer.out
    assert answer.err == ""


def test_exit_codes_are_pinned() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0,
        "UNEXPECTED": 1,
        "USAGE": 2,
        "NOT_RUNNING": 3,
        "DOES_NOT_FIT": 4,
        "ENGINE": 5,
        "START_FAILED": 6,
        "VERIFY_FAILED": 7,
        "TIMEOUT": 8,
        "CONFLICT": 9,
        "PARTIAL": 10,
        "INTERRUPTED": 130,
    }


@pytest.mark.parametrize("code", [code for code in ExitCode if code])
def test_an_errors_exit_code_and_data_reach_the_script(
    code: ExitCode, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def body() -> list[object]:
        raise QlaunchError("it broke", code="broke", exit_code=code, fix="mend it", data={"a": 1})

    monkeypatch.setattr("launcher.service.control.services", body)
    answer = run("ps", "--json")
    assert answer.code == code
    assert answer.data == {"a": 1}
    assert answer.error == {"code": "broke", "message": "it broke", "fix": "mend it"}


def test_an_interrupt_is_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def body() -> list[object]:
        raise KeyboardInterrupt

    monkeypatch.setattr("launcher.service.control.services", body)
    answer = run("ps", "--json")
    assert answer.code == 130
    assert answer.document["command"] == "ps"
    assert answer.error["code"] == "interrupted"


def test_a_fault_of_ours_is_one_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def body() -> list[object]:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("launcher.service.control.services", body)
    answer = run("ps", "--json")
    assert answer.code == 1
    assert answer.error["code"] == "unexpected"
    assert answer.error["message"] == "unexpected ZeroDivisionError in body: division by zero"
    assert "--debug" in answer.error["fix"]
    assert answer.err == ""


@pytest.mark.parametrize("words", [("plan", "./x"), ("up", "./x"), ("model", "inspect", "x")])
def test_a_folder_that_was_removed_under_the_shell_is_said(
    words: tuple[str, ...], run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was: unexpected FileNotFoundError in cwd."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    answer = run(*words, "--json")
    assert (answer.code, answer.error["code"]) == (2, "no_current_folder")
    assert answer.error["message"] == "the folder that you are in no longer exists"


def test_debug_keeps_the_traceback_in_a_file_and_names_it(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def body() -> list[object]:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("launcher.service.control.services", body)
    answer = run("ps", "--json", "--debug")
    path = Path(answer.err.removeprefix("traceback: ").strip())
    assert answer.error["fix"] == f"report it with the traceback: {path}"
    assert path.parent == home / "state" / "debug"
    assert path.stat().st_mode & 0o777 == 0o600
    assert "ZeroDivisionError: division by zero" in path.read_text()
    answer = run("--debug", "status", "absent")
    assert (
        "QlaunchError" in Path(answer.err.splitlines()[0].removeprefix("traceback: ")).read_text()
    )
    assert "Error: there is no service 'absent'" in answer.err


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (
            ["plan", "cpu-minilm", "--context-length", "256"],
            "stands after `--`: qlaunch plan … -- --context-length",
        ),
        (
            ["--name", "x", "up"],
            "options of a command stand after its name: qlaunch COMMAND --name",
        ),
        (["up", "--profile", "cpu-minilm"], "is named without an option: qlaunch up NAME"),
        (["up", "--no-such-thing"], "see `qlaunch up --help`"),
        (["profiles", "new", "x", "--model"], "see `qlaunch profiles new --help`"),
    ],
)
def test_an_option_in_the_wrong_place_is_told_its_place(
    words: list[str], fix: str, run: Run
) -> None:
    """As SGLang's users write it: without the two dashes between."""
    assert run("--json", *words).error["fix"].endswith(fix)


def test_a_usage_error_is_one_line(run: Run) -> None:
    """Of a missing argument with choices click makes a list of lines, with tabs."""
    message = run("completion", "--json").error["message"]
    assert message == "Missing argument 'SHELL'. Choose from: bash, zsh, fish"


def test_names_that_are_no_text_do_not_break_the_document(run: Run) -> None:
    answer = run("up", "\udcff\u00e9", "--json")
    assert answer.code == 2
    assert "é" in answer.error["message"]


def test_a_failure_without_data_has_an_empty_object() -> None:
    error = QlaunchError("x", code="c", exit_code=ExitCode.TIMEOUT)
    assert failure(error) == Result(
        data={}, exit_code=ExitCode.TIMEOUT, status="error", problems=failure(error).problems
    )


def everything(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from everything(inner, f"{path} {name}")


ALL = dict(everything(cli, "qlaunch"))


@pytest.mark.parametrize("path", ALL)
def test_every_command_and_option_has_help(path: str) -> None:
    command = ALL[path]
    assert command.help
    assert command.help.strip().splitlines()[0].endswith((".", ":")), path
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, f"{path} {option.opts}"
            assert option.help.endswith("."), f"{path} {option.opts}: {option.help}"


def test_every_command_takes_json() -> None:
    for path, command in ALL.items():
        assert any("--json" in option.opts for option in command.params), path


def test_the_reference_has_not_drifted() -> None:
    for path, text in cli_reference.generated().items():
        assert path.read_text("utf-8") == text, f"{path.name}: run `make docs`"


def test_the_reference_knows_every_code_and_command() -> None:
    assert set(EXIT_CODES) == set(ExitCode)
    assert set(NAMES) == set(cli_reference.KEYS) == set(SAMPLES)
