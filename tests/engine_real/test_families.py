"""Parity for every family of models, on checkpoints with random weights: one start each.

The smoke asks every text in a batch, again, reversed and alone, and compares all of the answers
with what transformers computes in float32 from the same files.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from launcher.model.inspect import inspect
from launcher.verify.thresholds import parity_min
from tests.checkpoints import make_bert, make_qwen3, make_roberta
from tests.engine_real.qlaunch import Home

Dtype = Literal["bfloat16", "float32", "int8"]
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
    home: Home,
) -> None:
    model = checkpoints(family)
    said = inspect(model)
    profile = home.profile(family, model, f"dtype: {dtype}")
    smoke = home.run("smoke", "--up", profile, "--json").ok()
    assert all(smoke.checks.values())
    assert smoke.data["smoke"]["worst_cosine"] >= parity_min(dtype)
    details = {check["name"]: check["detail"] for check in smoke.data["smoke"]["checks"]}
    print(f"{family} {dtype}: {details['parity']}")
    assert details["dimension"] == f"{said.dimensions} numbers each"
    assert not details["parity"].startswith("skipped")
