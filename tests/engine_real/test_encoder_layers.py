"""Linear layers of encoders as the plugin computes them: packed, in int8, in portions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from launcher.engine.release import Engine
from tests.engine_real.inside_process import Ask, Inside
from tests.engine_real.test_inside import normalized


def cosines(one: Any, two: Any) -> NDArray[np.float32]:
    found: NDArray[np.float32] = (normalized(np.array(one)) * normalized(np.array(two))).sum(-1)
    return found


def test_packed_layers_answer_as_the_layers_they_replace(ask: Ask) -> None:
    if not ask({"ask": "packs_bfloat16"})[0]:
        pytest.skip(
            "oneDNN packs bfloat16 from AVX-512 on; below, the stock layers stay: seen next"
        )
    for lengths in ([1], [5, 5, 3], [40, 7]):
        (found,) = ask({"ask": "layers", "way": "packed", "lengths": lengths})
        assert "PackedProjection" in found["kinds"]
        assert found["kinds"].count("PackedOutput") == 2
        np.testing.assert_allclose(found["after"], found["before"], atol=0.06)
        assert cosines(found["after"], found["before"]).min() > 0.9999
        assert found["kept"] < 3000  # the weights are there once: no copy stays


def test_other_activations_than_gelu_are_packed_too(ask: Ask) -> None:
    question = {"ask": "layers", "way": "packed", "dtype": "float32", "lengths": [5, 5, 3]}
    gelu, relu = ask(question, {**question, "activation": "relu"})
    assert relu["linears"] == ["OneDnnLinear"] * 4
    np.testing.assert_allclose(relu["after"], relu["before"], rtol=1e-4, atol=2e-5)
    assert cosines(relu["after"], gelu["after"]).min() < 0.9999


def test_packed_layers_in_float32_are_float32(ask: Ask) -> None:
    """No processor is asked for more than PyTorch needs: the same layers, whatever computes."""
    for lengths in ([1], [5, 5, 3], [40, 7]):
        question = {"ask": "layers", "way": "packed", "lengths": lengths, "dtype": "float32"}
        (found,) = ask(question)
        assert "PackedProjection" in found["kinds"]
        assert found["kinds"].count("PackedOutput") == 2
        np.testing.assert_allclose(found["after"], found["before"], rtol=1e-4, atol=2e-5)
        np.testing.assert_allclose(found["alone"], found["after"], rtol=1e-4, atol=2e-5)
        assert found["kept"] < 3000


@pytest.fixture
def ask_avx2(engine: Engine) -> Iterator[Ask]:
    """A process that computes as on a processor with AVX2 and nothing later."""
    masks = {"ONEDNN_MAX_CPU_ISA": "AVX2", "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2"}
    inside = Inside(engine, ATEN_CPU_CAPABILITY="avx2", **masks)
    yield inside.ask
    inside.close()


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the mask is x86-64's")
def test_without_bfloat16_arithmetic_float32_alone_is_packed(ask_avx2: Ask) -> None:
    question = {"ask": "layers", "way": "packed", "lengths": [5, 5, 3]}
    packs, half, single = ask_avx2(
        {"ask": "packs_bfloat16"}, question, {**question, "dtype": "float32"}
    )
    assert packs is False
    assert not [kind for kind in half["kinds"] if kind.startswith("Packed")]
    assert half["after"] == half["before"]
    assert "PackedProjection" in single["kinds"]
    np.testing.assert_allclose(single["after"], single["before"], rtol=1e-4, atol=2e-5)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="FBGEMM is x86-64's")
def test_weights_in_float16_are_near_the_same_in_any_company_and_half_as_large(ask: Ask) -> None:
    question = {"ask": "layers", "way": "packed", "dtype": "float32", "weights": "float16"}
    for lengths in ([1], [5, 5, 3], [40, 7]):
        half, whole, huge = ask(
            {**question, "lengths": lengths},
            {**question, "lengths": lengths, "weights": "float32"},
            {**question, "lengths": lengths, "huge": 70000.0},
        )
        assert half["linears"] == ["HalfLinear"] * 4
        assert cosines(half["after"], half["before"]).min() > 0.999999
        assert np.abs(np.subtract(half["after"], half["before"])).max() > 0  # it did round
        # MKL's products of attention differ in the last digit by where in memory a batch lies.
        np.testing.assert_allclose(half["alone"], half["after"], rtol=1e-5, atol=2e-6)
        assert half["kept"] < 3000
        assert whole["linears"] == ["OneDnnLinear"] * 4
        assert huge["linears"] == ["HalfLinear"] * 4  # the row is kept at a power of two of its
        np.testing.assert_allclose(huge["after"], huge["before"], rtol=1e-2, atol=1e-2)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="FBGEMM is x86-64's")
def test_rows_that_float16_has_no_numbers_for_are_kept_scaled(ask: Ask) -> None:
    factors = [1.0, 1e-30, 1e-9, 1e-6, 1e-4, 1e5, 1e9, 1e36, 0.0]
    (found,) = ask({"ask": "halved", "factors": factors})
    assert found["kind"] == "HalfLinear"
    assert max(found["off"]) < 2.0**-10
    (plain,) = ask({"ask": "halved", "factors": [1.0, 0.5, 0.0]})
    assert (plain["kind"], plain["scaled"]) == ("HalfLinear", False)
    (bad,) = ask({"ask": "halved", "factors": [1.0, float("nan")]})
    assert bad["kind"] == "OneDnnLinear"  # what is no number stays none


def test_rows_of_small_numbers_are_kept_in_int8(ask: Ask) -> None:
    (found,) = ask({"ask": "whole_steps", "factors": [1.0, 1e-6, 1e-12, 1e-30, 1e9, 0.0]})
    assert 0 < max(found["off"]) < 0.02
    assert found["off"][-1] == 0


def test_a_batch_in_portions_is_the_batch(ask: Ask) -> None:
    """Two threads, each with portions of its own: every text as if it had come alone."""
    question = {"ask": "layers", "way": "packed", "dtype": "float32", "least": 1}
    for lengths in ([5] * 7, [3, 40, 1, 1, 9, 2, 30], [60, 1]):
        for most in (1, 8, 16):
            (found,) = ask({**question, "lengths": lengths, "most": most})
            np.testing.assert_allclose(found["after"], found["before"], rtol=1e-4, atol=2e-5)
            np.testing.assert_allclose(found["alone"], found["after"], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tokens_are_computed_in_numbers_that_come_again(ask: Ask, dtype: str) -> None:
    """oneDNN compiled its products for every number of tokens that it had not seen lately."""
    packs = dtype == "float32" or ask({"ask": "packs_bfloat16"})[0]
    question = {"ask": "layers", "way": "packed", "dtype": dtype}
    for lengths in ([1], [17], [5] * 7, [300, 212, 1]):
        (found,) = ask({**question, "lengths": lengths})
        assert found["rounded_up"] is packs
        assert cosines(found["after"], found["before"]).min() > 0.999
        assert cosines(found["alone"], found["after"]).min() > 0.9999
    (half,) = ask({**question, "dtype": "float32", "lengths": [5], "weights": "float16"})
    assert half["rounded_up"] is False


@pytest.mark.parametrize(
    ("modes", "types"), [(["mean"], False), (["cls", "last"], True), (["max"], True)]
)
def test_a_portion_has_its_texts_from_tokens_to_vectors(
    ask: Ask, modes: list[str], types: bool
) -> None:
    question = {"ask": "pooled_in_portions", "modes": modes, "types": types, "most": 16}
    (found,) = ask({**question, "lengths": [8, 8, 5, 3, 16, 9, 7, 8]})
    assert found["portions"] == [1, 1, 2, 2, 2]
    np.testing.assert_allclose(found["together"], found["alone"], rtol=1e-5, atol=1e-6)


def test_a_batch_that_two_threads_cannot_share_is_left_to_the_model(ask: Ask) -> None:
    question = {"ask": "pooled_in_portions", "modes": ["mean"], "types": False, "most": 16}
    for lengths in ([9], [30, 2]):
        (found,) = ask({**question, "lengths": lengths})
        assert found["portions"] == [len(lengths)]
        assert (found["together"] is None) == (len(lengths) > 1)


def test_threads_that_take_portions_compute_alone(ask: Ask) -> None:
    """Each had as many OpenMP threads as the engine, twice what the machine has: after the first
    batch in portions every product of a text alone waited for threads to wake up."""
    (found,) = ask({"ask": "portions_threads", "batches": 3})
    assert found == {"of_each": [1] * 4, "of_all": 2, "more": 0}


def near_in_any_company(ask: Ask) -> None:
    for lengths in ([1], [5, 5, 3], [40, 7]):
        (found,) = ask({"ask": "layers", "way": "int8", "lengths": lengths})
        assert "Int8Projection" in found["kinds"]
        assert 0.99 < cosines(found["after"], found["before"]).min() < 1
        np.testing.assert_allclose(found["alone"], found["after"], atol=0.1)
        assert cosines(found["alone"], found["after"]).min() > 0.9999
        assert found["kept"] < 3000


def test_int8_layers_are_near_and_the_same_in_any_company(ask: Ask) -> None:
    near_in_any_company(ask)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the mask is x86-64's")
def test_int8_layers_are_near_where_sums_of_two_products_saturate(ask_avx2: Ask) -> None:
    near_in_any_company(ask_avx2)


def test_int8_that_cannot_be_had_ends_the_start(ask: Ask) -> None:
    question = {"ask": "layers", "way": "int8", "lengths": [3]}
    said = ask({**question, "activation": "relu"}, {**question, "partial": True})
    assert {each["error"] for each in said} == {"RuntimeError"}
    assert "its activation is relu" in said[0]["message"]
    assert "texts are not computed whole" in said[1]["message"]
