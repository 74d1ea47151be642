"""The Containerfile's RUN lines, run in a clean root, and a service in what they leave.

`make soak`, as root, with Debian's mmdebstrap: gigabytes and minutes.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import requests

from launcher.fleet import container
from launcher.service import ports
from tests.fleet.clean_root import Build, parsed
from tests.patience import HANG_S, eventually

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Containerfile").read_text("utf-8")
MODEL = "all-minilm-l6-v2"


def test_every_instruction_is_one_that_the_test_knows() -> None:
    assert {name for name, _ in parsed(TEXT)} <= {
        *("ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "STOPSIGNAL", "ENTRYPOINT", "CMD")
    }
    assert len([rest for name, rest in parsed(TEXT) if name == "RUN"]) == 7


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_image_is_built_and_serves(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        pytest.skip("needs root, and mmdebstrap (Debian package)")
    build = Build(tmp_path, ROOT, {"MODEL": MODEL})
    try:
        build.carry_out(TEXT)
        assert len(build.ran) == 7
        serves(build)
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", str(tmp_path)], check=True)


def serves(build: Build) -> None:
    """The built root as its user: what an export's container would run, and its health check."""
    uid = build.call(["id", "-u"])
    assert uid.stdout.strip() == str(container.USER)
    version = build.call(["qlaunch", "--version"])
    assert version.returncode == 0, version.stderr
    refused = build.call(["sh", "-c", "touch /opt/qlaunch/x"])
    assert refused.returncode != 0
    port = ports.pick_free("127.0.0.1")
    words = ["qlaunch", "up", "cpu-minilm", "--foreground", "--quiet", "--offline"]
    words += ["--port", str(port), "--name", "svc"]
    with subprocess.Popen(build.argv(words), stderr=subprocess.PIPE, text=True) as process:
        try:
            url = f"http://127.0.0.1:{port}/v1/embeddings"
            eventually(lambda: process.poll() is not None or answers(url), HANG_S * 2)
            assert process.poll() is None, process.stderr and process.stderr.read()
            eventually(lambda: verified(build), HANG_S)
        finally:
            # `unshare` hears no SIGTERM while it waits for its child, which is the service.
            for child in (
                Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            ):
                os.kill(int(child), signal.SIGTERM)
            _, said = process.communicate(timeout=HANG_S)
    assert '"state":"stopped"' in state_of(build), said


def verified(build: Build) -> bool:
    """Whether its state says so: a call has a PID namespace of its own, from which nobody can tell
    whether the supervisor lives (`status` says `unknown`).
    """
    time.sleep(1)
    return '"state":"ready"' in state_of(build)


def state_of(build: Build) -> str:
    """The service's own document of it."""
    state = build.call(["cat", "/qlaunch/state/qlaunch/services/svc/state.json"])
    return state.stdout


def answers(url: str) -> bool:
    with requests.Session() as session:
        session.trust_env = False
        try:
            given = {"model": MODEL, "input": "How are you"}
            answer = session.post(url, json=given, timeout=30)
        except requests.RequestException:
            return False
        return answer.ok and len(answer.json()["data"][0]["embedding"]) == 384
