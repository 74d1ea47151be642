"""Parity for every family and dtype, on checkpoints with random weights: a forked engine each.

The smoke's texts are asked in a batch, again, reversed and alone, and all of the answers compared
with what transformers computes in float32 from the same files.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from launcher.model.inspect import inspect
from launcher.verify import texts
from launcher.verify.thresholds import norm_tolerance, parity_min
from tests.checkpoints import make_bert, make_qwen3, make_roberta
from tests.checkpoints.edit import Stored, edited, tensors
from tests.engine_real.forked import Here, Many, compared
from tests.engine_real.qlaunch import Home

Dtype = Literal["bfloat16", "float32", "int8"]
TEXTS = tuple(each.text for each in texts.TEXTS)
_bert = functools.partial(make_bert, hidden=384, heads=12, intermediate=768)
_roberta = functools.partial(make_roberta, hidden=384, heads=12, intermediate=768)
"""MiniLM's width. The first token alone, without a mean's averaging, is close to the bfloat16 line
in narrower ones: transformers itself loses as much (least cosine of bfloat16 with float32 over
these texts, three seeds: 0.9986 at 64 columns, 0.9990 at 128, 0.9994 at 384)."""
MAKERS: dict[str, Callable[[Path], Path]] = {
    "bert-cls": lambda path: _bert(path, pooling="cls"),
    "bert-mean-dense": lambda path: _bert(path, pooling="mean", dense=96, new_spelling=True),
    "roberta-mean-shards": lambda path: _roberta(
        path, architecture="RobertaModel", pooling="mean", shards=2
    ),
    "xlm-roberta-cls": lambda path: _roberta(path, pooling="cls"),
    "qwen3-last-shards": lambda path: make_qwen3(path, shards=2, hidden=128, intermediate=256),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("checkpoints")

    def make(family: str) -> Path:
        path = folder / family
        return path if path.exists() else MAKERS[family](path)

    return make


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("bert-cls", "bfloat16"),
        ("bert-mean-dense", "bfloat16"),
        ("bert-mean-dense", "float32"),
        ("bert-mean-dense", "int8"),
        ("roberta-mean-shards", "bfloat16"),
        ("roberta-mean-shards", "float32"),
        ("roberta-mean-shards", "int8"),
        ("xlm-roberta-cls", "bfloat16"),
        ("xlm-roberta-cls", "float32"),
        ("qwen3-last-shards", "bfloat16"),
    ],
)
def test_vectors_are_the_checkpoint_s_own(
    family: str,
    dtype: Dtype,
    checkpoints: Callable[[str], Path],
    many: Many,
    here: Here,
) -> None:
    model = checkpoints(family)
    profile = here.home.profile("family", model, f"dtype: {dtype}")
    found = compared(many, here, profile, model, TEXTS)
    assert found.together.shape[1] == inspect(model).dimensions
    cosine, off = found.differences()
    print(f"{family} {dtype}: {cosine:.6f} at least, lengths within {off:.1e}")
    assert cosine >= parity_min(dtype)
    assert off <= norm_tolerance(dtype)


def growing(found: dict[str, Stored]) -> dict[str, Stored]:
    """One channel of the residual stream passes float16's end, and the last norm takes it back."""
    changed = dict(found)

    def numbers(name: str) -> Any:
        assert found[name][0] == "F32"
        return np.frombuffer(found[name][2], "<f4").reshape(found[name][1]).copy()

    def put(name: str, values: Any) -> None:
        changed[name] = ("F32", found[name][1], values.astype("<f4").tobytes())

    for name in found:
        if name.endswith("mlp.up_proj.weight"):
            gate = name.replace("up_proj", "gate_proj")
            changed[name] = found[gate]  # silu(x) * x: positive, so that it adds up
        elif name.endswith("mlp.down_proj.weight"):
            down = numbers(name)
            down[5] = 2_000.0
            put(name, down)
        elif name.endswith("model.norm.weight"):
            norm = numbers(name)
            norm[5] = 0.001
            put(name, norm)
    return changed


def test_a_checkpoint_that_overflows_float16_keeps_its_vectors(
    tmp_path: Path, many: Many, here: Here
) -> None:
    """SGLang's own float16 gives NaN for it: tests/engine_real/test_half.py."""
    make = edited(
        lambda path: make_qwen3(
            path, hidden=128, intermediate=256, dtype="float32", std=0.1, layers=4
        ),
        tensors(growing),
    )
    model = make(tmp_path / "half")
    profile = here.home.profile("half", model, "dtype: float16")
    cosine, off = compared(many, here, profile, model, TEXTS).differences()
    assert cosine >= parity_min("float16")
    assert off <= norm_tolerance("float16")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the mask is x86-64's")
def test_a_processor_kept_to_avx2_serves_float32_and_says_of_int8_that_it_has_7_bits(
    checkpoints: Callable[[str], Path], home: Home
) -> None:
    """On any machine, what one with AVX2 only does: the mask reaches plan, engine and reference."""
    home.env["ONEDNN_MAX_CPU_ISA"] = "AVX2"
    home.env["ATEN_CPU_CAPABILITY"] = "avx2"
    model = checkpoints("bert-mean-dense")
    asked = home.run("plan", home.profile("int8", model, "dtype: int8"), "--json").ok()
    (reason,) = (each for each in asked.data["reasons"] if each.startswith("dtype int8"))
    assert "weights in 7 bits, for this CPU has neither VNNI nor AMX" in reason
    assert asked.data["engine"]["env"]["QLAUNCH_DTYPE"] == "int8"
    smoke = home.run("smoke", "--up", home.profile("auto", model), "--json").ok()
    assert all(smoke.checks.values())
    assert smoke.data["smoke"]["worst_cosine"] >= parity_min("float32")
