"""An exported unit, started for real: it serves the very model that the service did."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from launcher.paths import Dirs
from launcher.service import ports
from tests.checkpoints import make_bert
from tests.engine_real.qlaunch import ROOT, UP_S, Home, eventually
from tests.units import Started


def vector(port: int, key: str = "none") -> list[float]:
    from openai import OpenAI

    with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key) as client:
        model = client.models.list().data[0].id
        answer = client.embeddings.create(model=model, input=["walk"], encoding_format="float")
        return list(answer.data[0].embedding)


def test_the_exported_unit_serves_the_service_s_own_model(home: Home, tmp_path: Path) -> None:
    """The trap: it came out with the profile's model and exit code 0, and was proved right.

    A folder alone is enough for the start.
    """
    model = make_bert(tmp_path / "My Finetune", pooling="mean", layers=2)
    began = home.run("up", str(model), "--port", "0", "--dtype", "float32", "--json").ok()
    assert all(began.checks.values())
    up = began.data
    assert (up["service"], up["profile"]) == ("my-finetune", "cpu-minilm")
    port = int(up["endpoint"].split(":")[-1].removesuffix("/v1"))
    before = vector(port)
    unit = home.run("export", "systemd", "my-finetune", "--json").ok().data["unit"]
    home.run("down", "my-finetune").ok()
    user = {"HOME": os.environ.get("HOME", "/"), "USER": "me"}
    folder = tmp_path / "run"
    folder.mkdir()
    started = Started(unit, folder, user)
    try:
        assert started.ready(UP_S)
        assert vector(port) == pytest.approx(before, abs=1e-5)
        run = home.run("runs", "show", "latest", "--json").ok().data
        assert run["plan"]["fingerprint"] == up["fingerprint"]
    finally:
        code, err = started.stop(UP_S)
    assert code == 0, err
    _change_a_weight(model / "model.safetensors")
    (folder / "notify").unlink()
    refused = Started(unit, folder, user)
    assert not refused.ready(UP_S)
    code, err = refused.stop(UP_S)
    assert code == 2
    assert "changed: its fingerprint is" in err


def _change_a_weight(path: Path) -> None:
    """One bit of the tensor data."""
    data = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    assert json.loads(data[8:header])
    data[header + (len(data) - header) // 2] ^= 0x10
    path.write_bytes(data)


def test_the_compose_file_s_command_serves_the_service_s_own_model(
    home: Home, tmp_path: Path, shared: Dirs
) -> None:
    """Run as the container would be, with its folders below another root."""
    model = make_bert(tmp_path / "walk", pooling="mean", layers=2)
    key = tmp_path / "key"
    key.write_text("secret-of-the-test")
    key.chmod(0o600)
    port = ports.pick_free("127.0.0.1")
    given = ("--model", str(model), "--name", "walk3", "--port", str(port))
    keyed = (*given, "--api-key-file", str(key))
    text = home.run("export", "compose", "cpu-minilm", *keyed, "--json").ok().data["compose"]
    document = yaml.safe_load(text)
    (service,) = document["services"].values()
    root = tmp_path / "root"
    (root / "opt" / "qlaunch").mkdir(parents=True)
    (root / "qlaunch").mkdir()
    (root / "opt" / "qlaunch" / "engines").symlink_to(shared.engines)
    mounts = {v["target"]: v["source"] for v in service["volumes"] if v["type"] == "bind"}
    (secret,) = service["secrets"]
    mounts |= {f"/run/secrets/{secret['target']}": document["secrets"][secret["source"]]["file"]}
    for target, source in mounts.items():
        Path(f"{root}{target}").parent.mkdir(parents=True, exist_ok=True)
        if Path(source).is_dir():
            Path(f"{root}{target}").symlink_to(source)
        else:
            Path(f"{root}{target}").write_bytes(Path(source).read_bytes())
            Path(f"{root}{target}").chmod(0o440)  # as a Secret's file is mounted

    def inside(word: str) -> str:
        return (f"{root}{word}" if word.startswith("/") else word).replace("$$", "$")

    env = {name: inside(value) for name, value in service["environment"].items()}
    env["PATH"] = os.environ["PATH"]
    program = [sys.executable, "-m", "launcher"]
    with subprocess.Popen(
        [*program, *map(inside, service["command"])], cwd=ROOT, env=env, stderr=subprocess.PIPE
    ) as started:
        probe = [*program, *service["healthcheck"]["test"][2:]]
        try:
            eventually(
                lambda: (
                    started.poll() is not None
                    or subprocess.run(probe, cwd=ROOT, env=env, capture_output=True).returncode == 0  # noqa: PLW1510
                ),
                UP_S,
            )
            assert started.poll() is None, started.communicate()[1].decode()
            assert len(vector(port, "secret-of-the-test")) == 64
        finally:
            started.terminate()
            _out, err = started.communicate(timeout=UP_S)
    assert started.returncode == 0, err.decode()
