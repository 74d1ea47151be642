"""docs/first-hour.md, typed from its first line to its last: an empty home, the wheel by pipx, the
real engine. Between "Keep it running" and "Leave" the exported unit is started as systemd would."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from launcher.paths import Dirs
from launcher.service import ports
from tests.checkpoints import make_bert, make_qwen3
from tests.engine_real.qlaunch import ROOT, UP_S
from tests.pages import Typed, commands
from tests.patience import FACTOR
from tests.units import Started, exec_start

PAGE: Final = commands("first-hour.md")
SETUP_S: Final = 300.0 * FACTOR
CODES: Final = {"qlaunch doctor": {0, 1}}
"""Warnings are no failure: the machine may be without the hubs, or busy."""
KEPT: Final = ("PATH", "LANG", "LC_ALL", "http_proxy", "https_proxy", "no_proxy")
_TRUST: Final = re.compile(r"(PIP|UV|SSL|REQUESTS|CURL)_.*")


@dataclass
class Newcomer:
    """Someone with an empty home, a shell, and the wheel in the folder they are in."""

    home: Path
    here: Path
    env: dict[str, str]

    def types(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a line in a shell; stdout and stderr as they come."""
        return subprocess.run(
            ["/bin/bash", "-o", "pipefail", "-c", command],
            cwd=self.here,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=UP_S + SETUP_S,
            check=False,
        )

    def follows(self, typed: Typed) -> str:
        """Type a command of the page; returns what it printed, which is what the page shows."""
        done = self.types(typed.command)
        print(f"$ {typed.command}\n{done.stdout}")  # pytest shows it where a later one fails
        assert done.returncode in CODES.get(typed.command, {0}), f"{typed}\n{done.stdout}"
        assert not typed.missing(done.stdout), f"{typed.missing(done.stdout)} not in\n{done.stdout}"
        return done.stdout

    def json(self, command: str) -> dict[str, object]:
        """The `data` of a command that succeeds."""
        done = self.types(f"qlaunch {command} --json 2>/dev/null")
        assert done.returncode == 0, done.stdout
        found: dict[str, object] = json.loads(done.stdout)["data"]
        return found


def ran(*words: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A program that has ended."""
    return subprocess.run(
        words, check=False, capture_output=True, text=True, timeout=SETUP_S, env=env
    )


def pip_settings() -> Path | None:
    """The caller's own pip settings, which an empty home would lose: where packages come from."""
    home = Path.home()
    places = (home / ".config" / "pip" / "pip.conf", home / ".pip" / "pip.conf")
    return next((path for path in places if path.is_file()), None)


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pipx and qlaunch's wheel."""
    folder = tmp_path_factory.mktemp("tools")
    made = folder / "made"
    venv.create(made, with_pip=True)
    python = made / "bin" / "python"
    done = ran(python, "-m", "pip", "install", "-q", "pipx")
    if "No matching distribution" in done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    done = ran(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT)
    assert done.returncode == 0, done.stderr
    (folder / "bin").mkdir()
    (folder / "bin" / "pipx").symlink_to(made / "bin" / "pipx")
    return folder


@pytest.fixture
def newcomer(tools: Path, shared: Dirs, tmp_path: Path) -> Newcomer:
    home, here = tmp_path / "home", tmp_path / "here"
    data = home / ".local" / "share" / "qlaunch"
    data.mkdir(parents=True)
    here.mkdir()
    (data / "engines").symlink_to(shared.engines)  # the one thing that takes minutes
    (data / "models").symlink_to(shared.models)
    (wheel,) = tools.glob("*.whl")
    shutil.copy(wheel, here)
    make_bert(here / "my-finetune", pooling="mean")
    make_qwen3(here / "my-qwen3")
    kept = {k: v for k, v in os.environ.items() if k in KEPT or _TRUST.fullmatch(k)}
    settings = pip_settings()
    own = {
        "HOME": str(home),
        "PATH": f"{home}/.local/bin:{tools}/bin:/usr/local/bin:/usr/bin:/bin",
        "PIPX_DEFAULT_PYTHON": sys.executable,
        "QLAUNCH_PORT": str(ports.pick_free("127.0.0.1")),
        "EDITOR": "true",
    }
    if settings is not None:
        own["PIP_CONFIG_FILE"] = str(settings)
    return Newcomer(home, here, {**kept, **own})


def test_the_first_hour_of_a_newcomer(newcomer: Newcomer, tmp_path: Path) -> None:
    leaving = next(at for at, typed in enumerate(PAGE) if typed.section.endswith("Leave"))
    try:
        printed = {typed.command: newcomer.follows(typed) for typed in PAGE[:leaving]}
        assert len(json.loads((newcomer.here / "vectors.jsonl").read_text())["embedding"]) == 384
        assert printed["qlaunch client cpu-minilm -l curl | sh"].count('"embedding"') > 1
        unit = newcomer.home / ".config/systemd/user/qlaunch-my-finetune.service"
        serves_the_same(newcomer, unit, tmp_path)
        exports_a_decoder(newcomer)
        for typed in PAGE[leaving:]:
            newcomer.follows(typed)
    finally:
        newcomer.types("qlaunch down --all")
    assert not shutil.which("qlaunch", path=f"{newcomer.home}/.local/bin")
    assert not (newcomer.home / ".local/share/pipx/venvs/qlaunch").exists()
    left = [path for path in newcomer.home.rglob("*qlaunch*") if "Cache" not in str(path)]
    assert [path for path in left if "/pipx/" not in str(path)] == []  # its own locks and logs


def serves_the_same(newcomer: Newcomer, unit: Path, folder: Path) -> None:
    """The exported unit, started with its own environment, serves the very checkpoint."""
    text = unit.read_text("utf-8")
    assert exec_start(text)[0] == f"{newcomer.home}/.local/share/pipx/venvs/qlaunch/bin/qlaunch"
    verify = shutil.which("systemd-analyze")
    if verify is not None:
        env = {"XDG_RUNTIME_DIR": str(folder), "PATH": "/usr/bin:/bin"}
        done = ran(verify, "verify", "--user", "--man=no", unit, env=env)
        assert done.returncode == 0, done.stderr
    before = newcomer.json("plan ./my-finetune")["fingerprint"]
    started = Started(text, folder, {"HOME": str(newcomer.home), "USER": "me"})
    try:
        assert started.ready(UP_S)
        state = newcomer.json("status my-finetune")
        assert state["state"] == "ready"
        run = newcomer.json("runs show my-finetune")
        assert run["plan"]["fingerprint"] == before  # type: ignore[index]
    finally:
        code, err = started.stop(120)
    assert code == 0, err


def exports_a_decoder(newcomer: Newcomer) -> None:
    """A made Qwen3: planned with a profile for decoders, and exported with its own fingerprint."""
    plan = newcomer.json("plan ./my-qwen3")
    assert plan["profile"] == "cpu-qwen3-0.6b"
    unit = newcomer.json("export systemd ./my-qwen3")["unit"]
    words = exec_start(str(unit))
    assert words[words.index("--expect-fingerprint") + 1] == plan["fingerprint"]
    assert words[words.index("--model") + 1] == str(newcomer.here / "my-qwen3")


def test_every_command_of_the_page_is_typed() -> None:
    """No command stands where the test does not see it."""
    text = (ROOT / "docs" / "first-hour.md").read_text("utf-8")
    assert len(PAGE) == len(re.findall(r"^\$ ", text, re.MULTILINE)) > 20
    assert {typed.command.split()[0] for typed in PAGE} <= {
        *("qlaunch", "pipx", "echo", "mkdir", "rm")
    }  # fmt: skip
