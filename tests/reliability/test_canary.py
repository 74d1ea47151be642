"""A key, and a text of a user, put where they belong: they must turn up nowhere else."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from msgspec import to_builtins

from launcher.documents.service_state import ServiceState
from launcher.errors import QlaunchError
from launcher.fleet import systemd
from launcher.linux import processes
from launcher.service import control, store
from tests.fleet.plans import origin
from tests.patience import PATIENCE_S
from tests.service.home import Home

CANARY = "canary-KEY-0123456789-zyx"
TEXT = "canary text of a user that nobody else may read"


@pytest.fixture
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "key"
    path.write_text(CANARY + "\n")
    path.chmod(0o600)
    return path


def artefacts(home: Home) -> Iterator[tuple[str, bytes]]:
    """Every file under the home, and command line and environment of every process of it."""
    for path in home.root.rglob("*"):
        if path.is_file() and path.name != "engine-secrets.yaml":
            yield str(path), path.read_bytes()
    for process in home.processes():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since
            for name in ("cmdline", "environ"):
                yield f"{process.pid}/{name}", Path(f"/proc/{process.pid}/{name}").read_bytes()


def found(home: Home, words: str) -> list[str]:
    return [name for name, data in artefacts(home) if words.encode() in data]


def embed(state: ServiceState, text: str, token: str) -> int:
    assert state.endpoint is not None
    port = int(state.endpoint.split(":")[2].partition("/")[0])
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    link.request("POST", "/v1/embeddings", json.dumps({"input": text}), headers)
    status = link.getresponse().status
    link.close()
    return status


def scrape(state: ServiceState) -> str:
    assert state.metrics is not None
    assert state.metrics.url is not None
    port = int(state.metrics.url.split(":")[2].partition("/")[0])
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    link.request("GET", "/metrics")
    text = link.getresponse().read().decode()
    link.close()
    assert "qlaunch_up" in text
    return text


def test_the_key_is_in_no_artefact(home: Home, key: Path) -> None:
    """Ready, asked, died, restarted, failed: an engine that prints its key, as SGLang does."""
    plan = home.plan("--print-key", "--die-after", "1.5", api_key_file=str(key))
    state = home.up(plan)
    assert embed(state, "hello", CANARY) == 200
    assert embed(state, "hello", "wrong") == 401
    assert found(home, CANARY) == []
    engine = store.folder("svc").secrets_config
    assert engine.stat().st_mode & 0o777 == 0o600
    failed = home.wait_for("failed")
    assert failed.failure is not None
    assert CANARY not in json.dumps(to_builtins(control.status_of(failed)))
    assert not engine.exists()
    assert found(home, CANARY) == []
    assert list(home.root.rglob("crash-*.log")) != []
    exported = msgspec.structs.replace(plan, origin=origin(settings={"api_key_file": str(key)}))
    start = systemd.Start(program=("/usr/bin/qlaunch",))
    assert CANARY not in systemd.unit(exported, start, scope="user")


def test_the_key_is_in_no_error(home: Home, key: Path) -> None:
    with pytest.raises(QlaunchError) as caught:
        home.up(home.plan("--print-key", "--exit-code", "3", api_key_file=str(key)))
    whole = json.dumps([caught.value.message, caught.value.fix, caught.value.data], default=str)
    assert CANARY not in whole
    key.write_text(f"{CANARY} with blanks")
    with pytest.raises(QlaunchError) as refused:
        home.up(home.plan(api_key_file=str(key)))
    assert CANARY not in str(refused.value)


def test_the_key_is_in_no_output_of_the_command_line(home: Home, key: Path) -> None:
    plan = home.plan("--print-key", api_key_file=str(key), metrics_port=0)
    state = home.up(plan)
    assert CANARY not in scrape(state)
    env = {**os.environ, "QLAUNCH_HOME": str(home.root)}
    for words in (
        ["status", "svc"],
        ["ps", "--all"],
        ["logs", "svc"],
        ["runs", "show", state.run],
        ["runs", "report", state.run],
        ["runs", "report", state.run, "--markdown", "-"],
        ["runs", "report", state.run, "--csv", "-"],
        ["runs", "diff", state.run, state.run],
        ["top", "--once"],
        ["plan", "cpu-minilm", "--api-key-file", str(key), "--host", "0.0.0.0"],
        ["export", "systemd", "svc", "--scope", "system"],
        ["down", "svc"],
        ["logs", "svc", "-f", "-n", "999"],
    ):
        for more in ([], ["--json"]):
            done = subprocess.run(
                [sys.executable, "-m", "launcher", *words, *more],
                env=env,
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
                check=False,
            )
            assert CANARY not in done.stdout + done.stderr, words
    assert found(home, CANARY) == []


def test_texts_are_in_no_artefact(home: Home) -> None:
    state = home.up(home.plan())
    assert embed(state, TEXT, "") == 200
    assert embed(state, " ", "") == 400
    control.down("svc")
    assert found(home, TEXT) == []
    assert not processes.is_alive(state.engine)
