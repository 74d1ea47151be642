"""Vectors as numbers of fewer bits: what they are, and how far from the float32 ones."""

from __future__ import annotations

import base64
import struct
from typing import Any

import numpy as np
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.gateway.output_types import typed
from tests.gateway.harness import Bench, Memory, run
from tests.gateway.scripted_server import truth

NUMPY = {"float16": "<f2", "int8": "i1", "binary": "i1", "ubinary": "u1"}
VECTORS = st.lists(
    st.floats(-1, 1, width=32).filter(lambda x: not x or abs(x) > 1e-3), min_size=1, max_size=70
).filter(any)


def wanted(numbers: list[float], output: str) -> Any:
    """By numpy, as sentence-transformers packs bits."""
    vector = np.array(numbers, "f4")
    if output == "float16":
        return vector.astype("f2")
    if output == "int8":
        largest = max(abs(x) for x in numbers)
        return np.array([round(x / (largest / 127)) for x in numbers], "i1")
    bits = np.packbits(vector > 0)
    return (bits.astype("i2") - 128).astype("i1") if output == "binary" else bits


@pytest.mark.parametrize("output", NUMPY)
@given(numbers=VECTORS)
@settings(max_examples=80, deadline=None)
def test_numbers_and_bytes_are_those_of_numpy(output: Any, numbers: list[float]) -> None:
    made = typed(numbers, output)
    assert np.array_equal(np.array(made.numbers), wanted(numbers, output))
    assert made.packed() == wanted(numbers, output).tobytes()
    if output == "int8":
        assert made.scale is not None
        back = np.array(made.numbers) * made.scale
        assert np.max(np.abs(back - np.array(numbers))) <= made.scale * 0.5000001


@pytest.mark.parametrize("output", NUMPY)
def test_an_answer_has_them_as_numbers_or_as_their_bytes(output: str) -> None:
    async def work() -> None:
        async with Bench(Memory()) as bench:
            right = wanted(truth("x"), output)
            whole = await bench.ask("x")
            await bench.kept()
            reply = await bench.ask("x", output_dtype=output, encoding_format="float")
            assert reply.hits == 1  # one entry for all types
            (item,) = reply.body["data"]
            assert item["embedding"] == right.tolist()
            packed = await bench.ask("x", output_dtype=output, encoding_format="base64")
            (item,) = packed.body["data"]
            data = base64.b64decode(item["embedding"])
            assert np.array_equal(np.frombuffer(data, NUMPY[output]), right)
            assert ("scale" in item) == (output == "int8")
            if output == "int8":
                back = right * item["scale"]
                assert np.max(np.abs(back - whole.vectors[0])) <= item["scale"] * 0.5000001
            assert "output_dtype" not in bench.server.calls[0]
            assert (await bench.ask("x")).vectors == whole.vectors

    run(work())


def test_float_and_float32_are_what_there_is_without_it() -> None:
    async def work() -> None:
        async with Bench(Memory()) as bench:
            for name in ("float", "float32", None):
                reply = await bench.ask("x", output_dtype=name, encoding_format="base64")
                assert reply.vectors == [truth("x")]
            for wrong in ("int4", "uint8", 8, ["int8"]):
                reply = await bench.ask("x", output_dtype=wrong)
                assert (reply.status, reply.body["error"]["code"]) == (400, "bad_output_dtype")
                assert "float16, int8, binary, ubinary" in reply.body["error"]["message"]

    run(work())


def test_a_number_too_large_for_float16_is_a_400() -> None:
    def large(answer: dict[str, Any]) -> dict[str, Any]:
        numbers = struct.pack("<16f", *([1e6] * 16))
        answer["data"][0]["embedding"] = base64.b64encode(numbers).decode()
        return answer

    async def work() -> None:
        async with Bench(Memory()) as bench:
            bench.sources[0].identity = None
            bench.server.spoil = large
            reply = await bench.ask("x", output_dtype="float16")
            assert (reply.status, reply.body["error"]["code"]) == (400, "bad_output_dtype")
            int8 = await bench.ask("x", output_dtype="int8")
            assert int8.body["data"][0]["embedding"] == [127] * 16

    run(work())


def test_openais_client_never_takes_narrow_bytes_for_float32() -> None:
    """It asks for base64 by itself and reads float32, whatever was asked for beside it."""

    async def work() -> None:
        async with Bench(Memory()) as bench:
            client = openai.AsyncOpenAI(base_url=f"{bench.url}v1", api_key="none", max_retries=0)
            async with client:
                more = {"output_dtype": "int8"}
                with pytest.raises(openai.BadRequestError, match="encoding_format"):
                    await client.embeddings.create(model="m", input="x", extra_body=more)
                answer = await client.embeddings.create(
                    model="m", input="x", extra_body=more, encoding_format="float"
                )
                assert answer.data[0].embedding == wanted(truth("x"), "int8").tolist()

    run(work())
