"""A home of its own for a benchmark: real engines and models, its own services, runs and cache."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchError
from launcher.errors import ExitCode
from launcher.paths import dirs

Say = Callable[[str], None]
QLAUNCH = Path(sys.executable).with_name("qlaunch")
"""The command as users run it: the script that the installation made."""
UP_LIMIT_S = 600.0
DOWN_LIMIT_S = 60.0
INSTALL_LIMIT_S = 3600.0


@dataclass(frozen=True)
class Up:
    """A service that `qlaunch up` brought to verified."""

    seconds: float
    """Of the whole `up` process, from its start to its end."""
    data: dict[str, Any]
    """The status document."""

    @property
    def pid(self) -> int:
        """Leader of the engine's processes."""
        return int(self.data["pid"])

    @property
    def supervisor_pid(self) -> int:
        """The supervisor."""
        return int(self.data["supervisor_pid"])

    @property
    def port(self) -> int:
        """Where the engine listens."""
        return int(str(self.data["endpoint"]).rsplit(":", 1)[1].split("/", 1)[0])


class Home:
    """A QLAUNCH_HOME in a temporary folder, whose `data` is the user's own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: set[str] = set()

    @property
    def environment(self) -> dict[str, str]:
        """The caller's environment without settings of qlaunch, so that profiles decide."""
        return clean_environment(os.environ) | {"QLAUNCH_HOME": str(self.root)}

    def data(self, *arguments: str, limit_s: float = 60.0) -> dict[str, Any]:
        """`data` of a command run with `--json`.

        Raises:
            BenchError: it failed, took longer than `limit_s` seconds, or printed no JSON.
        """
        return _data(arguments, self.environment, limit_s)

    def up(self, name: str, *arguments: str, limit_s: float = UP_LIMIT_S) -> Up:
        """`qlaunch up` of service `name`, on a free port, timed as its user sees it."""
        self._names.add(name)
        asked = ("up", "--name", name, "--port", "0", "--quiet", *arguments)
        began = time.monotonic()
        data = self.data(*asked, limit_s=limit_s)
        return Up(time.monotonic() - began, data)

    def down(self, name: str) -> None:
        """Stop service `name`; in a session of its own, so that a Ctrl-C does not end the stop."""
        done = subprocess.run(
            [QLAUNCH, "down", name],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            timeout=DOWN_LIMIT_S,
            check=False,
        )
        self._names.discard(name)
        if done.returncode not in (ExitCode.OK, ExitCode.NOT_RUNNING):
            sys.stderr.write(done.stderr.decode("utf-8", "replace"))

    def close(self) -> None:
        """Stop every service that was started here."""
        for name in sorted(self._names):
            self.down(name)

    def run_record(self, run: str) -> dict[str, Any]:
        """`runs show` of one run."""
        return self.data("runs", "show", run)


@contextlib.contextmanager
def home() -> Iterator[Home]:
    """A home for the length of a benchmark; its services are stopped and it is removed after."""
    where = dirs()
    where.cache.mkdir(parents=True, exist_ok=True)
    where.data.mkdir(parents=True, exist_ok=True)
    # Beside the user's own cache, not in a memory file system: checkpoints of gigabytes go here.
    root = Path(tempfile.mkdtemp(prefix="bench-", dir=where.cache)).resolve()
    made = Home(root)
    try:
        (root / "data").symlink_to(where.data.resolve(), target_is_directory=True)
        yield made
    finally:
        made.close()
        shutil.rmtree(root, ignore_errors=True)


def provide(say: Say, *, engine: str, model: str | None = None) -> None:
    """Install an engine release and fetch a model in the user's own home, where they are missing.

    Raises:
        BenchError: that failed.
    """
    environment = clean_environment(os.environ)
    if os.environ.get("QLAUNCH_HOME"):
        environment["QLAUNCH_HOME"] = os.environ["QLAUNCH_HOME"]
    steps = [("engine", "install", engine), *([("model", "pull", model)] if model else [])]
    for step in steps:
        say(f"qlaunch {' '.join(step)}")
        _data(step, environment, INSTALL_LIMIT_S)


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` without qlaunch's settings, and with bytecode written as usual."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith("QLAUNCH_") and name != "PYTHONDONTWRITEBYTECODE"
    }


def _data(arguments: Sequence[str], environment: dict[str, str], limit_s: float) -> dict[str, Any]:
    if not QLAUNCH.exists():
        raise BenchError("qlaunch is not installed beside this Python: run `make setup` first")
    words = f"qlaunch {' '.join(arguments)}"
    try:
        done = subprocess.run(
            [QLAUNCH, "--json", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            timeout=limit_s,
            check=False,
        )
        found = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"`{words}` took longer than {limit_s:g} s") from error
    except ValueError as error:
        raise BenchError(f"`{words}` printed no JSON (exit {done.returncode})") from error
    if done.returncode != 0:
        said = "; ".join(each["message"] for each in found["errors"])
        raise BenchError(f"`{words}` ended with {done.returncode}: {said}")
    data: dict[str, Any] = found["data"]
    return data
