"""An exported unit, started for real: it serves the very model that the service did."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.checkpoints import make_bert
from tests.engine_real.qlaunch import UP_S, Home
from tests.units import Started


def vector(port: int) -> list[float]:
    from openai import OpenAI

    with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client:
        model = client.models.list().data[0].id
        answer = client.embeddings.create(model=model, input=["walk"], encoding_format="float")
        return list(answer.data[0].embedding)


def test_the_exported_unit_serves_the_service_s_own_model(home: Home, tmp_path: Path) -> None:
    """The trap: it came out with the profile's model and exit code 0, and was proved right."""
    model = make_bert(tmp_path / "walk", pooling="mean", layers=2)
    given = ("--model", str(model), "--name", "walk2", "--port", "0", "--dtype", "float32")
    up = home.run("up", "cpu-minilm", *given, "--json").ok().data
    port = int(up["endpoint"].split(":")[-1].removesuffix("/v1"))
    before = vector(port)
    unit = home.run("export", "systemd", "walk2", "--json").ok().data["unit"]
    home.run("down", "walk2").ok()
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
        code, err = started.stop(120)
    assert code == 0, err
    _change_a_weight(model / "model.safetensors")
    (folder / "notify").unlink()
    refused = Started(unit, folder, user)
    assert not refused.ready(60)
    code, err = refused.stop(60)
    assert code == 2
    assert "changed: its fingerprint is" in err


def _change_a_weight(path: Path) -> None:
    """One bit of the tensor data."""
    data = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    assert json.loads(data[8:header])
    data[header + (len(data) - header) // 2] ^= 0x10
    path.write_bytes(data)
