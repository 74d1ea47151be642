from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.app import exporting
from launcher.engine.environments.environment_probe import Versions
from launcher.engine.releases import releases
from launcher.hardware.inventory import Hardware
from tests.checkpoints import make_bert, make_qwen3
from tests.cli.commandline import Answer, Run
from tests.samples import installed, machine

PROFILES = Path(__file__).parents[2] / "profiles"

SetMachine = Callable[[Hardware], None]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small stand-ins for the models of the shipped profiles, by card."""
    root = tmp_path_factory.mktemp("models")
    return {
        "all-minilm-l6-v2": make_bert(root / "minilm", pooling="mean"),
        "qwen3-embedding-0.6b": make_qwen3(root / "qwen3", max_position=32768),
    }


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty QLAUNCH_HOME, and no setting from the environment."""
    for name in list(os.environ):
        beside = {"tmpdir", "http_proxy", "https_proxy", "all_proxy", "no_proxy", "hf_token"}
        if name.startswith("QLAUNCH_") or name.lower() in beside:  # exports name what they leave
            monkeypatch.delenv(name)
    monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> SetMachine:
    """Choose the machine that the commands see."""

    def use(hardware: Hardware) -> None:
        for place in ("app.prepare", "cli.profiles", "hardware.detect"):
            monkeypatch.setattr(f"launcher.{place}.detect", lambda: hardware)

    return use


@pytest.fixture
def ready(
    home: Path, on: SetMachine, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A home with the cpu engine and the models of the shipped profiles, on a CPU with bfloat16."""
    installed(home / "data" / "engines")
    on(machine())
    there = Versions(sglang=releases()["cpu"].version, torch="2.13.0+cpu", kernels=None)
    monkeypatch.setattr(exporting, "versions", lambda _python: there)
    cards = home / "config" / "profiles" / "models"
    cards.mkdir(parents=True)
    for name, path in checkpoints.items():
        text = (PROFILES / "models" / f"{name}.yaml").read_text("utf-8")
        (cards / f"{name}.yaml").write_text(text.replace("sources:\n", f"sources:\n  - {path}\n"))
    return home


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command in this process."""
    from launcher.cli.main import main

    def call(*words: str) -> Answer:
        capsys.readouterr()
        code = main(list(words))
        out, err = capsys.readouterr()
        return Answer(code, out, err)

    return call


@pytest.fixture
def key(ready: Path) -> Path:
    """A file with an API key that only its owner may read."""
    path = ready / "key"
    path.write_text("secret")
    path.chmod(0o600)
    return path
