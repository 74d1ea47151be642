"""A machine on call: qlaunch in a shell, a home of its own, and an engine that fails as it is told.

Everything is real but the engine (`fake_python.py`) and the supervisor's clock, which looks every
third of a second instead of every half minute.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from launcher.linux import processes as procs
from launcher.service import ports
from tests.checkpoints import make_bert
from tests.pages import Typed
from tests.patience import HANG_S, eventually
from tests.samples import installed

ROOT: Final = Path(__file__).resolve().parents[2]
ENTRY: Final = ROOT / "tests" / "service" / "entry.py"
FAKE: Final = Path(__file__).with_name("fake_python.py")
CARD: Final = "all-minilm-l6-v2"
OPTIONS: Final = "options.json"
TIMING: Final = {"beat_s": 0.3, "poll_s": 0.03, "health_timeout_s": 2.0, "patient_s": 4.0}
PATIENCE: Final = {"grace_s": 3.0, "children_s": 0.1, "group_s": 0.1, "kill_s": 3.0}
QLAUNCH: Final = """\
#!{python} -P
import json, sys
sys.path.insert(0, {root!r})
from launcher.service import control
control.launch.__kwdefaults__["entry"] = (sys.executable, {entry!r}, {options!r})
from launcher.cli.main import entry
entry()
"""


@dataclass
class OnCall:
    """Someone on call: a home, a working folder, a shell."""

    home: Path
    here: Path
    env: dict[str, str]
    beside: list[subprocess.Popen[str]] = field(default_factory=list)
    """What runs in the background of a page."""
    limit_s: float = HANG_S
    """Seconds for one command."""

    def looks_every(self, seconds: float) -> None:
        """Have supervisors that start from now on look at their engine that often."""
        options = self.home.parent / OPTIONS
        said = json.loads(options.read_text())
        said["timing"]["beat_s"] = seconds
        options.write_text(json.dumps(said))

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
            timeout=self.limit_s,
            check=False,
        )

    def follows(self, typed: Typed) -> str:
        """Type a command of a page; returns what it printed, which is what the page shows."""
        done = self.types(typed.command)
        print(f"$ {typed.command}\n{done.stdout}")  # pytest shows it where a later one fails
        assert done.returncode in typed.codes, f"{typed}: {done.returncode}\n{done.stdout}"
        assert not typed.missing(done.stdout), f"{typed.missing(done.stdout)} not in\n{done.stdout}"
        return done.stdout

    def data(self, command: str) -> dict[str, Any]:
        """The `data` of a command with `--json`, whatever its exit code."""
        done = self.types(f"qlaunch {command} --json 2>/dev/null")
        found: dict[str, Any] = json.loads(done.stdout)["data"]
        return found

    @property
    def engine(self) -> Path:
        """The made environment of the engine."""
        return self.home / "data" / "engines" / "cpu"

    def switches(self, *words: str) -> None:
        """Have the engine misbehave from its next start on."""
        (self.engine / "switches").write_text(" ".join(words))

    def becomes(self, *states: str, service: str = "cpu-minilm") -> None:
        """Wait until the service is in one of those states."""
        eventually(lambda: self.data(f"status {service}").get("state") in states, HANG_S)

    def leave(self) -> None:
        """Stop everything; nothing of this home may go on."""
        for each in self.beside:
            each.terminate()
            each.communicate(timeout=HANG_S)
        self.types("qlaunch down --all")
        eventually(lambda: not procs.marked(f"QLAUNCH_HOME={self.home}"), HANG_S)


def make(root: Path) -> OnCall:
    """A machine with the `cpu` engine, MiniLM, and a model of one's own in `./my-finetune`."""
    home, here, programs = root / "home", root / "here", root / "bin"
    for folder in (home, here, programs):
        folder.mkdir()
    environment(home / "data" / "engines")
    make_bert(here / "my-finetune", pooling="mean", layers=1, hidden=384, heads=12)
    model(home)
    options = root / OPTIONS
    options.write_text(
        json.dumps(
            {
                "verify": [sys.executable, "-P", "-m", "launcher.verify"],
                "real_classes": True,
                "timing": TIMING,
                "patience": PATIENCE,
            }
        )
    )
    program(
        programs / "qlaunch",
        QLAUNCH.format(
            python=sys.executable, root=str(ROOT), entry=str(ENTRY), options=str(options)
        ),
    )
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "HOME") if name in os.environ}
    env = {
        **kept,
        "PATH": f"{programs}:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "QLAUNCH_HOME": str(home),
        "QLAUNCH_PORT": str(ports.pick_free("127.0.0.1")),
        "QLAUNCH_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
        "EDITOR": "true",
    }
    return OnCall(home, here, env)


def environment(engines: Path) -> Path:
    """An environment that counts as installed, and whose programs are the made ones."""
    root = installed(engines)
    for name in ("python", "sglang"):
        program(root / "bin" / name, f'#!/bin/sh\nexec {sys.executable} -S {FAKE} "$0" "$@"\n')
    return root


def model(home: Path) -> Path:
    """MiniLM's shape under its card's name; returns the folder."""
    path = make_bert(
        home / "data" / "models" / "minilm", pooling="mean", layers=1, hidden=384, heads=12
    )
    cards = home / "config" / "profiles" / "models"
    cards.mkdir(parents=True)
    text = (ROOT / "profiles" / "models" / f"{CARD}.yaml").read_text("utf-8")
    text = text.replace("sources:\n", f"sources:\n  - {path}\n")
    (cards / f"{CARD}.yaml").write_text(re.sub(r"(?m)^sha256:\n(?: .*\n)+", "", text))
    return path


def program(path: Path, text: str) -> None:
    """Write something that can be executed."""
    path.write_text(text)
    path.chmod(0o755)
