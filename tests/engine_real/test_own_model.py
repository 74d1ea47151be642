"""A model of one's own on the real engine: a folder alone, and a profile that says no sizes."""

from __future__ import annotations

from pathlib import Path

from tests.checkpoints import make_bert, make_qwen3
from tests.engine_real.qlaunch import Home


def test_a_folder_is_enough(home: Home, tmp_path: Path) -> None:
    model = make_bert(tmp_path / "My Finetune", pooling="mean", hidden=384, heads=12)
    up = home.run("up", str(model), "--port", "0", "--json").ok()
    assert (up.data["service"], up.data["profile"]) == ("my-finetune", "cpu-minilm")
    assert all(up.checks.values())
    home.run("down", "my-finetune").ok()


def test_sizes_that_nobody_wrote_serve_right_vectors_of_texts_in_pieces(
    home: Home, tmp_path: Path
) -> None:
    model = make_qwen3(tmp_path / "decoder", max_position=32768, hidden=128, intermediate=256)
    profile = tmp_path / "mine.yaml"
    text = f"hardware: {{device: cpu}}\nengine: cpu\nmodel: {model}\nport: 0\n"
    profile.write_text(text + "flags: {context-length: 4096}\n")
    planned = home.run("plan", str(profile), "--json").ok().data
    argv = planned["engine"]["argv"]
    assert argv[argv.index("--chunked-prefill-size") + 1] == "2048"
    assert argv[argv.index("--max-total-tokens") + 1] == "8704"
    up = home.run("up", str(profile), "--json").ok()
    assert up.data["service"] == "mine"
    assert up.checks["parity"]
    # Texts up to the whole context: two pieces.
    long = home.run("verify", "mine", "--json").ok().data
    checks = {check["name"]: check for check in long["verify"]["checks"]}
    assert checks["long_texts"]["ok"]
    assert "up to 4095 tokens" in checks["long_texts"]["detail"]
    home.run("down", "mine").ok()
