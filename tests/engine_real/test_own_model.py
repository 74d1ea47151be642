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
    """In pieces of 256 tokens (a plan takes 2048): the reference is compared up to 1024."""
    model = make_qwen3(tmp_path / "decoder", max_position=2048, hidden=128, intermediate=256)
    profile = tmp_path / "mine.yaml"
    profile.write_text(f"hardware: {{device: cpu}}\nengine: cpu\nmodel: {model}\nport: 0\n")
    pieces = ("--", "--chunked-prefill-size", "256")
    argv = home.run("plan", str(profile), "--json", *pieces).ok().data["engine"]["argv"]
    assert argv[argv.index("--max-total-tokens") + 1] == "8704"
    assert argv[argv.index("--max-prefill-tokens") + 1] == "2048"
    up = home.run("up", str(profile), "--json", *pieces).ok()
    assert up.data["service"] == "mine"
    assert up.checks["parity"]
    report = home.run("verify", "mine", "--json").ok().data["verify"]
    long = next(group for group in report["groups"] if group["group"] == "long")
    assert long["cosine_min"] > 0.999
    assert report["longest_tokens"] > 512  # three pieces and more
    home.run("down", "mine").ok()
