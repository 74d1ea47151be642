"""What commands show at 80 columns and 24 lines: without data, with three services, with fifty."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pexpect
import pytest

from launcher.app import proving
from launcher.cli import screen, verify
from launcher.cli.main import cli, main
from launcher.cli.result import table
from launcher.documents.proof import Chapter, Outcome, Proof
from launcher.documents.service_state import ServiceState
from launcher.documents.smoke import Check, GroupCosine, QualityReport, SuiteReport
from launcher.prove.bundle import PAGE
from launcher.service import store
from tests.cli.commandline import Run
from tests.cli.conftest import SetMachine
from tests.cli.services import leave_run, leave_service
from tests.patience import PATIENCE_S
from tests.samples import GIB, gpu, installed, machine

LINES, COLUMNS = 24, 80
OWN_PROFILE = "title: an own profile {n}\nhardware: {{device: cpu}}\nengine: cpu\nmodel: gte-tiny\n"

COMMANDS = (
    "",
    "up nope",
    "ps",
    "status svc-01",
    "status nope",
    "top --once",
    "logs svc-01",
    "logs nope",
    "smoke nope",
    "verify svc-01",
    "bench svc-01",
    "compare nope",
    "tune nope",
    "embed nope.txt -o out.jsonl nope",
    "embed nope.txt -o out.jsonl svc-01",
    "client nope",
    "restart nope",
    "scale nope 2",
    "down nope",
    "down --all",
    "forget svc-99",
    "plan cpu-minilm",
    "plan own-01",
    "recommend",
    "profiles list",
    "profiles show nope",
    "profiles new mine --from cpu-minilm",
    "profiles edit nope",
    "profiles path",
    "profiles validate cpu-minilm nope",
    "engine list",
    "engine install turing",
    "engine install cpu",
    "engine remove nope",
    "model list",
    "model inspect nope",
    "model inspect all-minilm-l6-v2",
    "model pull nope",
    "model remove nope",
    "model quantize nope --to int8",
    "prove --profile nope",
    "gateway nope",
    "cache stats",
    "cache purge",
    "cache warm nope.txt",
    "runs list",
    "runs show",
    "runs show nope",
    "runs show svc-01",
    "runs diff nope",
    "runs diff svc-01 svc-02",
    "runs report nope",
    "runs report svc-01",
    "runs prune --keep 1 --dry-run",
    "prune",
    "upgrade --dry-run",
    "doctor --offline",
    "export systemd nope",
    "export compose nope",
    "export k8s nope",
    "export skypilot nope",
    "bundle make out.tar --profile nope",
    "bundle make out.tar --profile cpu-minilm --dry-run",
    "bundle install nope",
    "stop svc-01",
    "ls",
)
FILES = {"completion": "the shell's script", "help": "every option of a command, as --help"}
"""Commands that print a whole text because that was asked for. So do `export`, `client` and
`profiles show` of what there is, `up --dry-run`, and every command with `--all`, `-v`, `--json`."""


def test_no_command_is_forgotten() -> None:
    def leaves(found: click.Command, path: tuple[str, ...]) -> Iterator[str]:
        if not isinstance(found, click.Group):
            yield " ".join(path)
            return
        context = click.Context(found)
        for name in found.list_commands(context):
            inner = found.get_command(context, name)
            assert inner is not None
            yield from leaves(inner, (*path, name))

    every = set(leaves(cli, ()))
    looked_at = {name for name in every for line in COMMANDS if f"{line} ".startswith(f"{name} ")}
    assert every - looked_at == set(FILES)


class Crowd:
    """Services, their runs and own profiles, as supervisors and users leave them."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def make(self, count: int, *, running: bool) -> None:
        checks = [{"name": f"check {n}", "ok": n != 7, "detail": "word " * 14} for n in range(16)]
        for n in range(count):
            run = f"202601{n % 28 + 1:02d}T{n % 24:02d}0000Z-svc-{n:02d}-{n:04x}"
            failure = {
                "code": "start_failed",
                "failure_class": "ram_exhausted",
                "message": "x" * 90,
            }
            leave_run(run, f"svc-{n:02d}", "a line of the engine's log\n" * 90, failure=failure)
            leave_service(
                f"svc-{n:02d}",
                run,
                "ready" if running else "failed",
                endpoint=f"http://127.0.0.1:{30000 + n}/v1",
                problem="its disk is full, and nothing of it can be written " * 2,
                smoke={"ok": False, "checks": checks, "suspect": "pooling", "explanation": "x"},
            )
            folder = self._home / "config" / "profiles"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"own-{n:02d}.yaml").write_text(OWN_PROFILE.format(n=n))


@pytest.fixture
def crowd(ready: Path, monkeypatch: pytest.MonkeyPatch) -> Crowd:
    """Makes services whose states are taken as they are written: nothing of them runs."""

    def settle(name: str) -> ServiceState | None:
        return store.read_state(name)

    monkeypatch.setattr("launcher.service.control.settle", settle)
    monkeypatch.setattr("launcher.app.live_view.control.settle", settle, raising=False)
    return Crowd(ready)


def rows(text: str) -> int:
    """Rows of a terminal that a text takes."""
    return sum(max(1, math.ceil(len(line) / COLUMNS)) for line in text.splitlines())


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
@pytest.mark.parametrize(
    ("count", "running"),
    [(0, True), (3, True), (50, True), (50, False)],
    ids=["nothing", "three", "fifty", "fifty dead"],
)
def test_no_command_fills_more_than_a_screen(
    count: int,
    running: bool,
    terminal: bool,
    run: Run,
    crowd: Crowd,
    on: SetMachine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crowd.make(count, running=running)
    if terminal:
        monkeypatch.setattr(screen, "width", lambda: COLUMNS)
        monkeypatch.setattr(screen, "height", lambda: LINES)
    long: dict[str, int] = {}
    card = machine(gpus=(gpu("NVIDIA RTX 3050", (8, 6), 4 * GIB),))
    for hardware in (machine(), card) if count in {0, 50} and running else (machine(),):
        on(hardware)
        for line in COMMANDS:
            if line.startswith("logs svc") and not terminal:
                continue  # the log as it is, for another program
            answer = run(*line.split())
            assert answer.out or answer.err, line
            taken = rows(answer.out) + rows(answer.err)
            if taken > LINES:
                long[line] = taken
    assert not long


def test_all_shows_everything(run: Run, crowd: Crowd) -> None:
    crowd.make(50, running=False)
    assert run("ps", "--all").out.count("svc-") >= 100
    assert run("runs", "list", "--all").out.count("\n") == 51
    short = run("runs", "list").out.splitlines()
    assert short[-1] == f"… {51 - len(short) + 1} more lines: --all shows everything"
    assert len(run("profiles", "list", "-v").out.splitlines()) > 60


def test_what_failed_is_shown_before_what_is_cut(run: Run, crowd: Crowd) -> None:
    crowd.make(3, running=False)
    out = run("status", "svc-01").out
    assert "FAIL  check 7" in out
    assert "15 ok: check 0, check 1" in out
    assert "more lines" not in out


def test_the_long_suite_says_what_failed_and_the_figures_on_one_screen() -> None:
    checks = tuple(Check(name=f"check {n}", ok=n != 9, detail="word " * 20) for n in range(20))
    report = SuiteReport(
        ok=False,
        checks=checks,
        groups=tuple(
            GroupCosine(group=f"kind {n}", texts=3, cosine_min=0.9, cosine_mean=0.99)
            for n in range(5)
        ),
        left_out=tuple(f"the call 'alone:{n}': the time was up" for n in range(40)),
    )
    quality = QualityReport(
        documents=100,
        queries=50,
        recall_at_10=0.5,
        reason="no reference",
        seconds=1.0,
        instructed=True,
        reference="unavailable",
    )
    lines = verify._fitting(report, quality, everything=False)
    assert sum(map(rows, lines)) + 2 < LINES
    assert lines[1].startswith("  FAIL  check 9")
    assert "left out  39 other parts: --all names them" in lines
    assert lines[-2].startswith("quality   recall@10 0.5000 served")
    assert len(verify._fitting(report, quality, everything=True)) > 60


def test_a_proof_of_fifty_chapters_says_each_reason_once_on_one_screen(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chapter(n: int) -> Chapter:
        outcome: Outcome = "ok" if n % 2 else "skipped" if n % 4 else "failed"
        why = {"ok": None, "skipped": "no_time", "failed": "no_card"}
        return Chapter(name=f"c{n}", title=f"chapter {n}", outcome=outcome, why=why[outcome])

    proof = Proof(
        id="p",
        qlaunch="0",
        began="",
        minutes=1.0,
        device="cpu",
        chapters=tuple(map(chapter, range(50))),
    )
    proved = proving.Proved(proof, home, home / "bundle.tar.gz")
    monkeypatch.setattr(proving, "prove", lambda **_: proved)
    answer = run("prove")
    assert answer.code == 10
    assert rows(answer.out) + rows(answer.err) < LINES
    assert answer.out.count("no_card") == answer.out.count("no_time") == 1
    assert "not everything is proved: chapter 0, chapter 2, chapter 4, …" in answer.err
    assert len(run("prove", "--json").document["errors"]) == 25
    assert run("prove").out.splitlines()[-2:] == [
        f"page: {home / PAGE}",
        f"to send: {home / 'bundle.tar.gz'}",
    ]


def test_a_reason_is_said_once(run: Run, ready: Path) -> None:
    out = run("profiles", "list").out
    assert out.count("it needs an NVIDIA GPU") == 1
    assert "h100-bf16, " in out
    assert run("profiles", "list", "-v").out.count("it needs an NVIDIA GPU") > 5


def test_an_unknown_service_among_fifty_names_the_near_and_not_all(run: Run, crowd: Crowd) -> None:
    crowd.make(50, running=False)
    assert "there is no service 'svc-0l'; did you mean `svc-" in run("status", "svc-0l").err
    (first, _try) = run("status", "nope").err.splitlines()
    assert first == "Error: there is no service 'nope'; of 50 services these run: none"


def test_tables_are_cut_to_the_terminal_and_not_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    data = [("a" * 50, "b" * 50, "short")]
    assert len(table(("NAME", "TEXT", "NOTE"), data)[1]) == 109
    monkeypatch.setattr(screen, "width", lambda: COLUMNS)
    line = table(("NAME", "TEXT", "NOTE"), data)[1]
    assert len(line) == COLUMNS
    assert line.split() == ["a" * 50, "b" * 20 + "…", "short"]


class TestColour:
    @pytest.mark.parametrize("words", [["--color", "always"], ["--color=always"]])
    @pytest.mark.parametrize("first", [True, False])
    def test_asked_for(self, words: list[str], first: bool, run: Run, ready: Path) -> None:
        line = [*words, "engine", "list"] if first else ["engine", "list", *words]
        out = run(*line).out
        assert "\x1b[32myes\x1b[0m" in out
        assert out.startswith("\x1b[1mRELEASE")
        err = run(*words, "status", "nope").err if first else run("status", "nope", *words).err
        assert err.startswith("\x1b[31;1mError:\x1b[0m there is no service")

    def test_none_in_a_pipe(self, run: Run, ready: Path) -> None:
        assert "\x1b" not in run("engine", "list").out

    def test_none_in_a_file_s_text(self, run: Run, ready: Path) -> None:
        assert "\x1b" not in run("--color", "always", "profiles", "show", "cpu-minilm").out
        assert "\x1b" not in run("--color", "always", "engine", "list", "--json").out

    def test_an_error_before_the_command_follows_too(self, run: Run, ready: Path) -> None:
        assert "\x1b[31;1mError:" in run("stauts", "--color", "always").err
        assert "\x1b" not in run("stauts").err

    @pytest.mark.parametrize(
        ("environment", "words", "coloured"),
        [
            ({}, [], True),
            ({"NO_COLOR": "1"}, [], False),
            ({"TERM": "dumb"}, [], False),
            ({"NO_COLOR": "1"}, ["--color", "always"], True),
            ({}, ["--color", "never"], False),
        ],
    )
    def test_on_a_terminal(
        self, environment: dict[str, str], words: list[str], coloured: bool, tmp_path: Path
    ) -> None:
        installed(tmp_path / "data" / "engines")
        kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")}
        child = pexpect.spawn(
            sys.executable,
            ["-m", "launcher", *words, "engine", "list"],
            env={**kept, "TERM": "xterm", **environment, "QLAUNCH_HOME": str(tmp_path)},
            dimensions=(LINES, COLUMNS),
            encoding="utf-8",
            timeout=PATIENCE_S,
        )
        shown = child.read()
        assert ("\x1b[" in shown) is coloured
        assert "RELEASE" in shown

    @pytest.mark.parametrize(
        ("line", "painted"),
        [
            ("svc  ready  -", "svc  \x1b[32mready\x1b[0m  -"),
            ("service   svc (p): failed", "service   svc (p): \x1b[31mfailed\x1b[0m"),
            ("  ok    parity  fine", "  \x1b[32mok\x1b[0m    parity  fine"),
            ("a text that is ok and ready to go", "a text that is ok and ready to go"),
            ("  Try: wait", "\x1b[1m  Try:\x1b[0m wait"),
        ],
    )
    def test_states_are_painted_where_they_stand_alone(self, line: str, painted: str) -> None:
        assert screen.paint(line) == painted


class TestHelp:
    def test_the_program_alone_shows_one_screen_and_is_no_success(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([]) == 2
        assert rows(capsys.readouterr().err) <= LINES

    def test_help_is_a_word(self, run: Run) -> None:
        assert run("help", "engine", "install").out == run("engine", "install", "--help").out
        assert run("help").out == run("--help").out

    def test_help_of_another_tools_verb(self, run: Run) -> None:
        answer = run("help", "stop", "--json")
        assert answer.code == 2
        assert "did you mean `down`" in answer.error["message"]

    @pytest.mark.parametrize(
        ("line", "meant"),
        [
            ("stop svc", "`down`"),
            ("list", "`ps`"),
            ("ls", "`ps`"),
            ("start p", "`up`"),
            ("run p", "`up`"),
            ("serve p", "`up`"),
            ("rm svc", "`down` or `forget` or `prune`"),
            ("install cpu", "`engine install`"),
            ("pull m", "`model pull`"),
            ("engine rm cpu", "`remove`"),
            ("model download m", "`pull`"),
            ("runs ls", "`list`"),
            ("profiles check p", "`validate`"),
            ("stauts", "`status`"),
        ],
    )
    def test_verbs_of_other_tools_are_known(self, line: str, meant: str, run: Run) -> None:
        answer = run(*line.split(), "--json")
        assert answer.code == 2
        assert f"did you mean {meant}" in answer.error["message"]

    def test_every_command_stands_under_a_heading(self, run: Run) -> None:
        assert "Others:" not in run("--help").out
