"""What this machine lacks for a profile is told by `plan`, before anything is started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher.app import usable_here
from launcher.config.loading import load_profile
from launcher.config.settings import UserConfig, resolve
from launcher.errors import QlaunchError
from tests.cli.commandline import Run

ELSEWHERE = "192.0.2.7"
"""Of TEST-NET-1 (RFC 5737): no machine's."""


def own(ready: Path, text: str) -> str:
    path = ready / "own.yaml"
    path.write_text(f"extends: cpu-minilm\n{text}\n")
    return str(path)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (f"metrics_port: 0\nmetrics_host: {ELSEWHERE}", 3, f"cannot listen on host '{ELSEWHERE}'"),
        ("cache:\n  url: /proc/none/vectors.db", 3, "/proc cannot be written"),
        ("cache:\n  url: /proc/version/vectors.db", 3, "/proc/version is not a folder"),
        ("cache:\n  url: /usr", 3, "/usr is a folder"),
        ("cache:\n  url: /dev/null", 3, "/dev/null is not a file"),
        ("cache:\n  url: /sys/kernel/vectors.db", 3, "/sys/kernel cannot be written"),
    ],
)
def test_what_was_only_noted_after_the_start_is_refused_with_its_line(
    ready: Path, run: Run, text: str, line: int, said: str
) -> None:
    """`up` was content, and `status` said that there were no metrics, or no cache."""
    answer = run("plan", own(ready, text))
    assert answer.code == 2
    assert f"own.yaml:{line}: " in answer.err
    assert said in " ".join(answer.err.split())


def test_an_address_of_metrics_that_nobody_asked_for_is_not_looked_at(
    ready: Path, run: Run
) -> None:
    assert run("plan", own(ready, f"metrics_host: {ELSEWHERE}")).code == 0


def test_a_path_without_lscpu_is_refused_with_its_line(ready: Path, run: Run) -> None:
    """The engine ended after seconds with an error that had no class."""
    answer = run("plan", own(ready, f"env:\n  PATH: {ready}"))
    assert answer.code == 5
    assert "own.yaml:3: SGLang starts lscpu" in " ".join(answer.err.split())
    assert "leave that out" in answer.err


def test_a_machine_without_lscpu_is_told_what_to_install(ready: Path, tmp_path: Path) -> None:
    loaded = load_profile("cpu-minilm", tmp_path)
    settings = resolve(loaded, {}, {}, UserConfig())
    with pytest.raises(QlaunchError, match="has none") as caught:
        usable_here.require_topology(settings, loaded.profile, "cpu", {"PATH": str(ready)})
    assert "install util-linux" in (caught.value.fix or "")
    usable_here.require_topology(settings, loaded.profile, "cuda", {"PATH": str(ready)})


def test_a_file_of_vectors_that_can_be_made_is_let_through(ready: Path, run: Run) -> None:
    assert run("plan", own(ready, "cache:\n  url: not/yet/there/vectors.db")).code == 0
    assert not (ready / "not").exists()


def test_a_folder_that_may_not_be_written_is_refused(
    ready: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who runs the tests may write everywhere, perhaps."""
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != ready)
    answer = run("plan", own(ready, "cache:\n  url: not/yet/vectors.db"))
    assert (answer.code, f"{ready} cannot be written" in answer.err.replace("\n", "")) == (2, True)


def test_a_home_of_nobody_is_a_path_like_others(ready: Path, run: Run) -> None:
    """`~nobody-here/…` was an unexpected RuntimeError."""
    assert run("plan", own(ready, "cache:\n  url: ~nobody-here/vectors.db")).code == 0
    assert run("plan", own(ready, "model: ~nobody-here/model")).code == 2
    (ready / "child.yaml").write_text("extends: ~nobody-here/own.yaml\n")
    assert run("plan", str(ready / "child.yaml")).code == 2
