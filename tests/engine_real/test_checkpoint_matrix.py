"""The matrix of checkpoints on the real engine: what is served has transformers' own vectors.

Every row starts a whole engine with the command of its plan, in a process forked from one that has
imported SGLang already (many.py): a second and a half a row. Some rows are brought up for real too.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from launcher.cli.main import main
from launcher.cli.service_text import PLACEHOLDERS
from launcher.engine import command
from launcher.engine.release import Engine
from launcher.verify.reference import WORKER
from tests.checkpoints.matrix import TEXTS, Row, rows
from tests.engine_real.qlaunch import Home, environment

MANY = Path(__file__).with_name("many.py")
SERVED = rows(served=True)
STARTED = [(row, profile) for row, profile in SERVED if row.start]
ALIKE = 0.9999
"""Least cosine of float32 with float32."""


class Many:
    """The process that starts engines, and its answers."""

    def __init__(self, engine: Engine, log: Path) -> None:
        env = environment(None) | command.base_environment(engine.release, plugin=True)
        self._log = log.open("wb")
        self._process = subprocess.Popen(
            [str(engine.python), str(MANY)],
            env=env | {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def close(self) -> None:
        self._process.communicate(timeout=120)
        self._log.close()


@pytest.fixture(scope="module")
def many(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Many]:
    made = Many(engine, tmp_path_factory.mktemp("many") / "log")
    yield made
    made.close()


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


@pytest.fixture
def here(home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    for name in [name for name in os.environ if name.startswith("QLAUNCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("QLAUNCH_HOME", str(home.root))
    return Here(home, capsys)


def ids(found: list[tuple[Row, str]]) -> list[str]:
    return [row.name for row, _ in found]


@pytest.mark.parametrize(("row", "profile"), SERVED, ids=ids(SERVED))
def test_vectors_are_transformers_own(
    row: Row, profile: str, many: Many, here: Here, tmp_path: Path
) -> None:
    model = row.make(tmp_path / "checkpoint")
    here.home.profile("row", model, "dtype: float32")
    planned = here.run("plan", "row", "--json")
    texts = [*TEXTS]
    argv = planned["engine"]["argv"]
    picked = PLACEHOLDERS["{port}"]
    found = many.ask(
        {
            "argv": ["0" if word == picked else word for word in argv[argv.index("serve") + 1 :]],
            "env": planned["engine"]["env"],
            "texts": texts,
        }
    )
    assert "error" not in found, found["trace"]
    said = here.run("model", "inspect", str(model), "--json")
    request = {
        "model_path": str(model),
        "texts": texts,
        "max_tokens": said["context_length"],
        "threads": 2,
        "fallback_pooling": "refuse",
    }
    wanted = many.ask({"worker": str(WORKER), "request": request})
    assert "error" not in wanted, wanted["trace"]
    assert found["tokens"] == wanted["tokens"]
    expected = np.array([decoded(each) for each in wanted["vectors"]])
    compare(np.array(found["vectors"]), expected)
    compare(np.array(found["alone"]), expected[:2])


def decoded(encoded: str) -> NDArray[np.float32]:
    import base64

    return np.frombuffer(base64.b64decode(encoded), "<f4")


def compare(found: NDArray[np.float64], expected: NDArray[np.float32]) -> None:
    """The same direction and the same length."""
    assert found.shape == expected.shape
    lengths = [np.linalg.norm(each, axis=-1) for each in (found, expected)]
    np.testing.assert_allclose(lengths[0], lengths[1], rtol=1e-3)
    cosines = (found * expected).sum(axis=-1) / lengths[0] / lengths[1]
    assert cosines.min() >= ALIKE, cosines


@pytest.mark.parametrize(("row", "profile"), STARTED, ids=ids(STARTED))
def test_brought_up_and_verified(row: Row, profile: str, home: Home, tmp_path: Path) -> None:
    model = row.make(tmp_path / "checkpoint")
    smoke = home.run("smoke", "--up", home.profile("row", model), "--json").ok()
    assert all(smoke.checks.values())
