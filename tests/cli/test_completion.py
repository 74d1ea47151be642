"""Completion by name in real shells, and the table behind it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from launcher.cli import completing
from launcher.cli.base import COMPLETION_VARIABLE
from tests.cli.commandline import Run
from tests.cli.services import leave_run, leave_service
from tests.patience import PATIENCE_S

TABLE = json.loads(completing.TABLE.read_text("utf-8"))
RUN = "20260105T000000Z-svc-one-0005"


def offered(*words: str) -> list[str]:
    """What the last of `words` may become."""
    return [item.value for item in completing.completions(TABLE, words[:-1], words[-1])]


@pytest.fixture
def filled(home: Path) -> Path:
    """A service, its run, an own profile and an own model card."""
    leave_service("svc-one", RUN)
    leave_run(RUN, "svc-one")
    cards = home / "config" / "profiles" / "models"
    cards.mkdir(parents=True)
    (cards / "my-card.yaml").touch()
    (cards.parent / "my-profile.yaml").touch()
    (cards.parent / "my-second.yml").touch()
    (cards.parent / ".my-profile.draft.yaml").touch()
    (home / "state" / "services" / "refused").mkdir()
    return home


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("sta", ["status"]),
        ("engine in", ["install"]),
        ("status ", ["svc-one"]),
        ("down svc-one s", ["svc-one"]),
        ("up my-", ["my-profile", "my-second"]),
        ("up cpu-mi", ["cpu-minilm"]),
        ("--json up cpu-mi", ["cpu-minilm"]),
        ("up --port 0 --model my-", ["my-card"]),
        ("plan --engine tur", ["turing"]),
        ("plan --engine=tur", ["--engine=turing"]),
        ("model pull gte", ["gte-tiny"]),
        ("engine install cuda", ["cuda13", "cuda13-portable", "cuda12"]),
        ("runs show ", ["latest", RUN, "svc-one"]),
        ("runs diff latest 2026", [RUN]),
        ("runs list --service ", ["svc-one"]),
        ("export systemd svc", ["svc-one"]),
        ("--color ", ["auto", "always", "never"]),
        ("ps --color = al", ["always"]),
        ("engine list --no", []),
        ("completion ", ["bash", "zsh", "fish"]),
        ("logs --fol", ["--follow"]),
        ("up cpu-minilm -- --log", []),
        ("ps ", []),
    ],
)
def test_names_are_completed(line: str, some: list[str], filled: Path) -> None:
    assert offered(*line.split(" ")) == some


def test_a_draft_of_profiles_edit_is_not_offered(filled: Path) -> None:
    assert [name for name in offered("up", "") if name.startswith(".")] == []


def test_a_path_is_left_to_the_shell(filled: Path) -> None:
    (item,) = completing.completions(TABLE, ["up"], "./my")
    assert (item.type, item.value) == ("file", "./my")


def test_without_a_home_the_shipped_names_are_there(home: Path) -> None:
    assert "cpu-minilm" in offered("up", "")
    assert offered("status", "") == []


def test_no_command_is_imported(filled: Path) -> None:
    """A key press waits for it: click, the table and the names of files are enough."""
    script = (
        "import sys, os\n"
        "from launcher.cli.main import entry\n"
        "try: entry()\n"
        "except SystemExit: pass\n"
        "own = {m for m in sys.modules if m.startswith('launcher.')}\n"
        "extra = own - {'launcher.cli', 'launcher.cli.main', 'launcher.cli.base',"
        " 'launcher.cli.result', 'launcher.cli.screen', 'launcher.cli.streams',"
        " 'launcher.cli.completing', 'launcher.errors', 'launcher.paths'}\n"
        "heavy = {'yaml', 'msgspec', 'rich', 'openai', 'requests'} & set(sys.modules)\n"
        "print(sorted(extra | heavy), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, COMPLETION_VARIABLE: "bash_complete", **_words("qlaunch up cpu-mi", 2)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["plain,cpu-minilm"]
    assert done.stderr == "[]\n"


def test_what_fails_says_nothing(tmp_path: Path) -> None:
    for home, instruction in ((str(tmp_path), "tcsh_complete"), ("\udcff", "bash_complete")):
        done = subprocess.run(
            [sys.executable, "-m", "launcher"],
            env={
                **os.environ,
                "QLAUNCH_HOME": home,
                COMPLETION_VARIABLE: instruction,
                **_words("qlaunch status ", 2),
            },
            capture_output=True,
            check=False,
        )
        assert (done.stdout, done.stderr) == (b"", b"")


def _words(line: str, at: int) -> dict[str, str]:
    return {"COMP_WORDS": line, "COMP_CWORD": str(at)}


@pytest.fixture
def program(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which shells find `qlaunch`."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "qlaunch"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nfrom launcher.cli.main import entry\nsys.exit(entry())\n"
    )
    script.chmod(0o755)
    root = str(Path(__file__).parents[2])
    return {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHONPATH": root,
        "HOME": str(folder),
        "TERM": "dumb",
    }


LINES = [
    ("qlaunch up cpu-mi", "cpu-minilm"),
    ("qlaunch status svc", "svc-one"),
    ("qlaunch model pull my-", "my-card"),
    ("qlaunch runs show 2026", RUN),
    ("qlaunch engine install tur", "turing"),
    ("qlaunch recom", "recommend"),
]


def _require(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")


@pytest.mark.parametrize(("line", "whole"), LINES)
def test_bash(line: str, whole: str, program: dict[str, str]) -> None:
    _require("bash")
    words = line.split()
    script = (
        'eval "$(qlaunch completion bash)"\n'
        f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}\n"
        "complete -p qlaunch >/dev/null || exit 9\n"
        '_qlaunch_completion qlaunch; printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env=program, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [whole]
    assert done.stderr == ""


@pytest.mark.parametrize(("line", "whole"), LINES)
def test_fish(line: str, whole: str, program: dict[str, str]) -> None:
    _require("fish")
    script = f"qlaunch completion fish | source; complete -C '{line}'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        env=program,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [entry.split("\t")[0] for entry in done.stdout.splitlines()] == [whole]


def test_zsh(program: dict[str, str]) -> None:
    """Typed at a prompt: zsh completes in its editor only."""
    _require("zsh")
    shell = pexpect.spawn(
        "zsh",
        ["-f", "-i"],
        env=program,
        encoding="utf-8",
        timeout=PATIENCE_S,
        dimensions=(40, 200),
    )
    try:
        shell.sendline("PS1='READY> '; unsetopt zle_bracketed_paste beep; autoload -U compinit")
        shell.sendline('compinit -u -D; eval "$(qlaunch completion zsh)"; echo LOADED=$((1+1))')
        shell.expect("LOADED=2")
        for line, whole in LINES:
            shell.send(f"{line}\t")
            shell.expect_exact(whole)
            shell.sendcontrol("u")
    finally:
        shell.close(force=True)


class TestManual:
    def test_help_prints_it(self, run: Run, home: Path) -> None:
        page = run("help", "--man").out
        assert page == (Path(__file__).parents[2] / "docs" / "qlaunch.1").read_text("utf-8")
        assert ".SS qlaunch engine install" in page

    def test_it_is_of_all_commands(self, run: Run, home: Path) -> None:
        assert run("help", "up", "--man", "--json").code == 2

    def test_groff_has_nothing_to_say(self) -> None:
        if shutil.which("groff") is None:
            pytest.skip("groff is not installed")
        page = Path(__file__).parents[2] / "docs" / "qlaunch.1"
        done = subprocess.run(
            ["groff", "-man", "-ww", "-z", "-Tutf8", str(page)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""


def test_the_help_of_completion_shows_no_control_character(run: Run, home: Path) -> None:
    out = run("completion", "--help").out
    assert "\\b" not in out
    assert "\b" not in out
    assert 'eval "$(qlaunch completion bash)"      ~/.bashrc\n' in out
