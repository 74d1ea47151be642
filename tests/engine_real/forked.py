"""Engines for the price of a fork: many.py kept running, and commands run in this process.

What is asked is the engine's vectors and the reference's. What a server adds (HTTP, the supervisor,
the checks of a start) is tried where services are brought up.
"""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.cli.main import main
from launcher.cli.service_text import PLACEHOLDERS
from launcher.engine import command
from launcher.engine.release import Engine
from launcher.verify.reference import WORKER
from tests.engine_real.qlaunch import Home, environment

MANY = Path(__file__).with_name("many.py")
THREADS = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}
"""Two, as any split of the work shows; they sleep between two pieces of it: spinning, they keep the
processor from whoever has the next piece, the longer the more else runs."""


class Many:
    """The process that starts engines, and its answers."""

    def __init__(self, engine: Engine, log: Path) -> None:
        env = environment(None) | command.base_environment(engine.release, plugin=True)
        self._log = log.open("wb")
        self._process = subprocess.Popen(
            [str(engine.python), str(MANY)],
            env=env | THREADS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def ask(self, *questions: dict[str, Any]) -> list[dict[str, Any]]:
        """The answers, in order; the questions are worked on at the same time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(questions) + "\n")
        self._process.stdin.flush()
        answers: list[dict[str, Any]] = json.loads(self._process.stdout.readline())
        for answer in answers:
            assert "error" not in answer, answer
        return answers

    def close(self) -> None:
        """Let it end."""
        self._process.communicate(timeout=120)
        self._log.close()


class Here:
    """Commands run in this process: a new one costs more than what they do."""

    def __init__(self, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self._capsys = home, capsys

    def run(self, *words: str) -> dict[str, Any]:
        """The data of a command that succeeds."""
        self._capsys.readouterr()
        code = main(list(words))
        document = json.loads(self._capsys.readouterr().out)
        assert code == 0, document["errors"]
        found: dict[str, Any] = document["data"]
        return found


class Compared:
    """One checkpoint's vectors by the engine and by transformers, texts in the order asked."""

    def __init__(self, engine: dict[str, Any], reference: dict[str, Any]) -> None:
        assert engine["tokens"] == reference["tokens"]
        self.together, self.again, self.turned, self.alone = (
            np.array(engine[name]) for name in ("together", "again", "turned", "alone")
        )
        raw = [np.frombuffer(base64.b64decode(each), "<f4") for each in reference["vectors"]]
        self.expected = np.array(raw, np.float64)

    def differences(self) -> tuple[float, float]:
        """The least cosine with the reference, in whatever company a text was asked, and the
        greatest difference of a length from the reference's, as a share of it."""
        worst, off = 1.0, 0.0
        for vectors in (self.together, self.again, self.turned[::-1], self.alone):
            assert vectors.shape == self.expected.shape
            assert np.isfinite(vectors).all()
            ours, wanted = (np.linalg.norm(each, axis=-1) for each in (vectors, self.expected))
            cosines = (vectors * self.expected).sum(axis=-1) / ours / wanted
            worst = min(worst, float(cosines.min()))
            off = max(off, float(np.abs(ours / wanted - 1.0).max()))
        return worst, off


def compared(many: Many, here: Here, profile: str, model: Path, texts: tuple[str, ...]) -> Compared:
    """Serve `texts` as the profile's plan says, without a server, and compute the reference."""
    planned = here.run("plan", profile, "--json")["engine"]
    picked = PLACEHOLDERS["{port}"]
    argv = planned["argv"]
    argv = ["0" if word == picked else word for word in argv[argv.index("serve") + 1 :]]
    said = here.run("model", "inspect", str(model), "--json")
    request = {
        "model_path": str(model),
        "texts": texts,
        "max_tokens": said["context_length"],
        "threads": 1,
        "fallback_pooling": "refuse",
    }
    return Compared(
        *many.ask(
            {"argv": argv, "env": planned["env"], "texts": texts},
            {"worker": str(WORKER), "request": request},
        )
    )
