from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.service import ports
from tests.cli.commandline import Answer, Run
from tests.corpus.server import Server
from tests.patience import eventually

ENGINE = Path(__file__).parents[1] / "fake_engine.py"


@pytest.fixture(scope="session")
def engine() -> Iterator[str]:
    """Address of a fake engine in a process of its own; vectors of eight numbers."""
    port = ports.pick_free("127.0.0.1")
    argv = [sys.executable, "-S", str(ENGINE), "--host", "127.0.0.1", "--port", str(port)]
    argv += ["--model-path", "/models/fake", "--dimensions", "8", "--context-length", "64"]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        eventually(lambda: _listens(port))
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def server() -> Iterator[Callable[..., Server]]:
    """Starts servers that answer as a test says."""
    started: list[Server] = []

    def start(**options: object) -> Server:
        started.append(Server(**options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command in this process, with a home that is empty."""
    from launcher.cli.main import main

    monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("launcher.corpus.endpoints.REST_S", (0.01, 0.05))

    def call(*words: str) -> Answer:
        capsys.readouterr()
        code = main(list(words))
        out, err = capsys.readouterr()
        return Answer(code, out, err)

    return call
