"""The plugin's own layers of a decoder: right in every number format and in any company."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from launcher.engine.release import Engine
from tests.engine_real.inside_process import Ask, Inside
from tests.engine_real.test_encoder_layers import cosines

SHAPES: list[dict[str, Any]] = [
    {},
    {"normed": False, "bias": True},
    {"keys": 4},
    {"keys": 1, "causal": False},
]
"""Qwen3; Qwen2 with biases everywhere; as many key heads as query heads; both directions."""
LENGTHS = [5, 5, 3, 1, 40]
"""Neighbours of one length among them."""
LONG = [600, 3]
"""A text longer than what is computed together."""
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Small products on several threads wait for each other, for long on a busy machine."""
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


@pytest.fixture(scope="module")
def ask(engine: Engine) -> Iterator[Ask]:
    inside = Inside(engine, **ONE_THREAD)
    yield inside.ask
    inside.close()


@pytest.mark.parametrize("shape", SHAPES)
def test_layers_are_those_of_the_model(shape: dict[str, Any], ask: Ask) -> None:
    question = {"ask": "decoder", "lengths": LENGTHS, **shape}
    for found in ask(question, {**question, "pooled": False}):
        assert found["kind"] == "Layers"
        assert found["kept"] == 0
        np.testing.assert_allclose(found["ours"], found["plain"], rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(found["alone"], found["ours"], rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="FBGEMM is x86-64's")
@pytest.mark.parametrize("shape", SHAPES)
def test_weights_in_float16_are_nearly_those_of_the_model(shape: dict[str, Any], ask: Ask) -> None:
    question = {"ask": "decoder", "lengths": LENGTHS, "weights": "float16", **shape}
    for found in ask(question, {**question, "pooled": False}):
        assert found["kind"] == "Layers"
        assert found["kept"] == 0
        assert cosines(found["ours"], found["plain"]).min() > 0.99999
        assert np.abs(np.subtract(found["ours"], found["plain"])).max() > 2e-4  # it did round
        np.testing.assert_allclose(found["alone"], found["ours"], rtol=1e-4, atol=1e-4)


def test_a_text_longer_than_a_group_goes_alone(ask: Ask) -> None:
    (found,) = ask({"ask": "decoder", "lengths": LONG})
    np.testing.assert_allclose(found["ours"], found["plain"], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("intel", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_layers_in_bfloat16(shape: dict[str, Any], intel: bool, ask: Ask) -> None:
    if not ask({"ask": "packs_bfloat16"})[0]:
        pytest.skip("oneDNN packs bfloat16 from AVX-512 on")
    question = {"ask": "decoder", "lengths": LENGTHS, "dtype": "bfloat16", "intel": intel, **shape}
    for found in ask(question, {**question, "pooled": False}):
        assert cosines(found["ours"], found["plain"]).min() > 0.9998
        assert cosines(found["ours"], found["alone"]).min() > 0.99995


@pytest.mark.parametrize("shape", [*SHAPES, {"massive": True}])
def test_layers_in_int8(shape: dict[str, Any], ask: Ask) -> None:
    """A token's steps are its own, and sums of them exact: what differs is float32's rounding."""
    question = {"ask": "decoder", "lengths": LENGTHS, "dtype": "int8", **shape}
    formats = ["float32", "bfloat16"] if ask({"ask": "packs_bfloat16"})[0] else ["float32"]
    for found in ask(*({**question, "engine_dtype": name} for name in formats)):
        assert found["kind"] == "Int8Layers"
        assert found["kept"] == 0
        assert cosines(found["ours"], found["plain"]).min() > 0.99
        assert cosines(found["ours"], found["alone"]).min() > 0.99999


def test_layers_in_int8_without_vnni(engine: Engine) -> None:
    """Products of two are summed in 16 bits there: weights of 7 bits leave them room."""
    inside = Inside(engine, **AVX2, **ONE_THREAD)
    found = inside.ask(
        *({"ask": "decoder", "lengths": LENGTHS, "dtype": "int8", "massive": m} for m in (0, 1))
    )
    inside.close()
    for each in found:
        assert each["kind"] == "Int8Layers"
        assert cosines(each["ours"], each["plain"]).min() > 0.98
        assert cosines(each["ours"], each["alone"]).min() > 0.99999


def test_layers_without_avx512(engine: Engine) -> None:
    inside = Inside(engine, **AVX2, **ONE_THREAD)
    right, none, refused = inside.ask(
        {"ask": "decoder", "lengths": [5, 5, 40]},
        {"ask": "decoder", "lengths": [5], "dtype": "bfloat16"},
        {"ask": "decoder", "lengths": [5], "odd": "act_fn"},
    )
    inside.close()
    np.testing.assert_allclose(right["ours"], right["plain"], rtol=2e-4, atol=2e-4)
    assert none is None, "SGLang's layers stay where bfloat16 is emulated"
    assert refused is None, "a layer of another build keeps SGLang's"


def test_int8_that_a_decoder_cannot_have_ends_the_start(ask: Ask) -> None:
    (found,) = ask({"ask": "decoder", "lengths": [5], "dtype": "int8", "odd": "down_proj"})
    assert found["error"] == "RuntimeError"
    assert "a layer has no down_proj" in found["message"]
