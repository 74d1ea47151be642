"""The real command line against the real engine, in a home of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.documents.service_state import ServiceState
from launcher.linux import processes as procs
from launcher.linux import procfs
from launcher.linux.processes import ProcessId
from launcher.service import ports, store
from tests.cgroups import MemoryGroup
from tests.patience import FACTOR, eventually

__all__ = ["Finished", "Home", "eventually"]

ROOT = Path(__file__).resolve().parents[2]
UP_S = 400.0 * FACTOR
"""For one `up` and no more: a start takes 12 s alone on two cores, and several times that beside
other work."""
LONG_S = 3 * UP_S
"""For the long suite and retrieval: references of hundreds of texts are computed first."""
PROFILE = """\
title: A checkpoint made by the tests
hardware:
  device: cpu
engine: cpu
model: {model}
port: 0
flags:
  attention-backend: torch_native
  disable-overlap-schedule: true
  sleep-on-idle: true
  max-total-tokens: 8192
  max-prefill-tokens: 8192
  max-running-requests: 32
  skip-server-warmup: true
  log-level-http: warning
"""


class Finished:
    """A command that has ended: its exit code and, with `--json`, its document."""

    def __init__(self, arguments: tuple[str, ...], code: int, stdout: str, stderr: str) -> None:
        self.arguments, self.code, self.stdout, self.stderr = arguments, code, stdout, stderr

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.stdout)
        return found

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = self.document["data"]
        return found

    @property
    def checks(self) -> dict[str, bool]:
        return {check["name"]: check["ok"] for check in self.data["smoke"]["checks"]}

    def ok(self) -> Finished:
        assert self.code == 0, f"{self.arguments}: {self.code}\n{self.stdout}\n{self.stderr}"
        return self


def environment(home: Path | None) -> dict[str, str]:
    """The caller's environment without its own qlaunch settings, for commands in `home`."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("QLAUNCH_")}
    return env if home is None else env | {"QLAUNCH_HOME": str(home)}


def start(
    env: Mapping[str, str], *arguments: str, inside: MemoryGroup | None = None
) -> subprocess.Popen[str]:
    """`qlaunch ARGUMENTS`, running; `inside` a control group of the tests' own."""
    argv = (sys.executable, "-m", "launcher", *arguments)
    return subprocess.Popen(
        argv if inside is None else inside.enter(*argv),
        cwd=ROOT,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], limit_s: float = UP_S) -> Finished:
    """Wait for a command; one that takes too long is interrupted as a person would do it."""
    try:
        stdout, stderr = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.terminate()
        stdout, stderr = process.communicate(timeout=60)
    return Finished(tuple(map(str, process.args)), process.returncode, stdout, stderr)  # type: ignore[arg-type]


class Home:
    """A QLAUNCH_HOME of its own, with the shared engine and models in it."""

    def __init__(self, root: Path, data: Path, cache: Path) -> None:
        (root / "data").mkdir(parents=True)
        for shared in ("engines", "models"):
            (data / shared).mkdir(parents=True, exist_ok=True)
            (root / "data" / shared).symlink_to(data / shared)
        (root / "cache").symlink_to(cache)  # references are computed once, not once a test
        self.root = root
        self.env = environment(root)

    def start(self, *arguments: str, inside: MemoryGroup | None = None) -> subprocess.Popen[str]:
        return start(self.env, *arguments, inside=inside)

    def run(self, *arguments: str, limit_s: float = UP_S) -> Finished:
        return finish(self.start(*arguments), limit_s)

    def profile(self, name: str, model: Path, *more: str) -> str:
        """A user's profile for the checkpoint in `model`; returns its name."""
        file = self.root / "config" / "profiles" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        text = PROFILE.format(model=json.dumps(str(model)))
        file.write_text("".join((text, *(f"{line}\n" for line in more))), encoding="utf-8")
        return name

    def log(self, service: str) -> str:
        """The engine's log, as `qlaunch logs` prints it."""
        return self.run("logs", service, "-n", "100000").ok().stdout

    def state(self, service: str) -> ServiceState:
        """What the supervisor wrote last."""
        path = self.root / "state" / "services" / service / "state.json"
        return store.decode_state(service, path.read_bytes())

    def sweep(self) -> None:
        """Stop what a failed test may have left; nothing to do where nothing runs."""
        if procs.marked(f"QLAUNCH_HOME={self.root}"):
            finish(self.start("down", "--all", "--json"))


def tree(leader: int) -> list[ProcessId]:
    """The processes of an engine by identity, its leader among them."""
    members = procfs.descendants([leader], procs.all_processes())
    return [found for pid in members if (found := procs.process_id(pid)) is not None]


def alive(processes: list[ProcessId]) -> list[str]:
    """Those that still run, named."""
    return [procs.describe(process) for process in processes if procs.is_alive(process)]


def assert_port_is_free(endpoint: str) -> None:
    host, _, port = endpoint.removeprefix("http://").partition("/")[0].rpartition(":")
    ports.check_free(host, int(port))


def texts_of(folder: Path) -> dict[Path, bytes]:
    """Every regular file below `folder`, links not followed."""
    found: dict[Path, bytes] = {}
    for at, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not (Path(at) / name).is_symlink()]
        for name in files:
            path = Path(at) / name
            with contextlib.suppress(OSError):  # sockets, files that just went
                if path.is_file() and not path.is_symlink():
                    found[path] = path.read_bytes()
    return found
