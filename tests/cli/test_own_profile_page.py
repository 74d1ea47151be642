"""docs/own-profile.md: its commands run, and its profiles are valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from launcher.config.loading import load_profile
from tests.checkpoints import make_bert
from tests.cli.commandline import Run

PAGE = (Path(__file__).parents[2] / "docs" / "own-profile.md").read_text("utf-8")
PROFILES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = re.findall(r"^\$ qlaunch (.*)$", PAGE, re.MULTILINE)


@pytest.fixture
def work(ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    here = tmp_path / "work"
    here.mkdir()
    make_bert(here / "my-finetune", pooling="mean")
    monkeypatch.chdir(here)
    monkeypatch.setenv("EDITOR", "true")
    return here


def test_every_command_of_the_page_runs_in_its_order(run: Run, work: Path) -> None:
    assert len(COMMANDS) == 5
    for command in COMMANDS:
        words = command.split()
        answer = run(*words, *(["--dry-run"] if words[0] == "up" else []))
        assert answer.code == 0, (command, answer.err)
    assert run("plan", "mine", "--json").data["model_path"] == str(work / "my-finetune")


@pytest.mark.parametrize("number", range(len(PROFILES)))
def test_every_profile_of_the_page_is_valid_and_planned(number: int, run: Run, work: Path) -> None:
    text = PROFILES[number].replace("/home/me", str(work))
    path = work / "mine.yaml"
    path.write_text(text)
    assert load_profile(str(path), work).profile.model == str(work / "my-finetune")
    data = run("plan", str(path), "--json").data
    assert data["fits"] is True
    assert "--max-total-tokens" in data["engine"]["argv"]
