"""A repository of a mirror on the real engine: fetched, served, and exported without it."""

from __future__ import annotations

from pathlib import Path

from tests.checkpoints import make_bert
from tests.checkpoints.hub import Hub, serve
from tests.engine_real.qlaunch import Home
from tests.units import exec_start


def test_a_repository_of_a_mirror_is_enough_and_is_exported_without_it(
    home: Home, tmp_path: Path
) -> None:
    model = make_bert(tmp_path / "main", pooling="mean", hidden=384, heads=12)
    wanted = home.run("plan", str(model), "--json").ok().data["fingerprint"]
    with serve(Hub(repos={"acme/tiny": {"main": model}})) as hub:
        home.env |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf")}
        up = home.run("up", "hf:acme/tiny", "--port", "0", "--json").ok().data
        assert (up["service"], up["profile"], up["state"]) == ("tiny", "cpu-minilm", "ready")
        assert up["fingerprint"] == wanted
        assert hub.requests
    unit = home.run("export", "systemd", "hf:acme/tiny", "--json").ok().data["unit"]
    words = exec_start(unit)
    assert words[words.index("--expect-fingerprint") + 1] == wanted
    assert f"Environment=HF_HOME={tmp_path / 'hf'}" in unit
    assert "--offline" in words
    home.run("down", "tiny").ok()
