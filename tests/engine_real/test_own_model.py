"""A model of one's own on the real engine: a card, a profile that says no sizes, the long suite."""

from __future__ import annotations

from pathlib import Path

from tests.checkpoints import make_qwen3
from tests.engine_real.qlaunch import LONG_S, Home
from tests.engine_real.test_planted_faults import card


def test_sizes_that_nobody_wrote_serve_right_vectors_of_texts_in_pieces(
    home: Home, tmp_path: Path
) -> None:
    """A last-token model, in pieces of 256 tokens (a plan takes 2048).

    The long suite: lengths up to the context, the instruction, cut vectors, the prefix cache.
    """
    model = make_qwen3(tmp_path / "decoder", max_position=2048, hidden=128, intermediate=256)
    card(
        home,
        "made",
        model,
        'instruction: "Instruct: {task}\\nQuery:{query}"',
        'end_token: "<|endoftext|>"',
        "matryoshka: true",
        architecture="Qwen3ForCausalLM",
        pooling="last",
        dimensions=128,
        context=2048,
    )
    profile = tmp_path / "mine.yaml"
    profile.write_text("hardware: {device: cpu}\nengine: cpu\nmodel: made\nport: 0\n")
    pieces = ("--", "--chunked-prefill-size", "256")
    argv = home.run("plan", str(profile), "--json", *pieces).ok().data["engine"]["argv"]
    assert argv[argv.index("--max-total-tokens") + 1] == "8704"
    assert argv[argv.index("--max-prefill-tokens") + 1] == "2048"
    up = home.run("up", str(profile), "--json", *pieces).ok()
    assert up.data["service"] == "mine"
    assert up.checks["parity"]
    report = home.run("verify", "mine", "--json", limit_s=LONG_S).ok().data["verify"]
    long = next(group for group in report["groups"] if group["group"] == "long")
    assert long["cosine_min"] > 0.999
    assert report["longest_tokens"] == 2047  # eight pieces
    assert report["worst_cosine"] >= 0.999
    checks = {check["name"]: check["detail"] for check in report["checks"]}
    assert "queries turn by it" in checks["instruction"]
    assert checks["dimensions"].startswith("cut to 64, then normalised")
    assert "<|endoftext|>" in checks["tokens"]
    assert "this service takes 2047 at most" in checks["too_long"]
    home.run("down", "mine").ok()
