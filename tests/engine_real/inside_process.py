"""inside.py kept running: questions to the plugin's own parts, in the engine's Python."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.engine import command
from launcher.engine.release import Engine
from tests.engine_real.forked import THREADS
from tests.engine_real.qlaunch import environment

Ask = Callable[..., list[Any]]
INSIDE = Path(__file__).with_name("inside.py")


class Inside:
    """One process with the engine's Python: its import of SGLang is paid for once."""

    def __init__(self, engine: Engine, **more: str) -> None:
        env = environment(None) | command.base_environment(engine.release, plugin=True) | more
        self._process = subprocess.Popen(
            [str(engine.python), str(INSIDE)],
            env=env | THREADS | more,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, *questions: dict[str, Any]) -> list[Any]:
        """The answers, in order."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        found = []
        for question in questions:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            found.append(json.loads(self._process.stdout.readline()))
        return found

    def close(self) -> None:
        """Let it end."""
        self._process.communicate(timeout=60)
