"""float16 where activations pass its end: infinite as SGLang computes, right with the plugin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.engine.release import Engine
from tests.checkpoints import make_qwen3
from tests.checkpoints.edit import Stored, edited, tensors
from tests.engine_real.qlaunch import Home
from tests.engine_real.test_inside import Ask, Inside

END = 65504.0
"""The greatest number of float16."""
AGREES = 0.999


@pytest.fixture(scope="module")
def ask(engine: Engine) -> Iterator[Ask]:
    inside = Inside(engine)
    yield inside.ask
    inside.close()


@pytest.mark.parametrize("factor", [1.0, 1e4, 1e5])
def test_within_float16_both_ways_are_right(factor: float, ask: Ask) -> None:
    (found,) = ask({"ask": "half", "factor": factor})
    assert found["ours"] > AGREES
    assert found["plain"] > AGREES
    assert found["dtype"] == "torch.float32"


@pytest.mark.parametrize("factor", [3e5, 1e6, 2e6])
def test_beyond_it_only_the_plugin_is_right(factor: float, ask: Ask) -> None:
    (found,) = ask({"ask": "half", "factor": factor})
    assert found["plain"] is None, "the model no longer overflows: the test shows nothing"
    assert found["ours"] > AGREES


def test_far_beyond_it_is_not_hidden(ask: Ask) -> None:
    """A block that gives more than 64 times float16's end stays infinite: the smoke must see it."""
    (found,) = ask({"ask": "half", "factor": 1e7})
    assert found["ours"] is None


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


def test_a_served_checkpoint_that_overflows_float16_keeps_its_vectors(
    tmp_path: Path, home: Home
) -> None:
    make = edited(
        lambda path: make_qwen3(
            path, hidden=128, intermediate=256, dtype="float32", std=0.1, layers=4
        ),
        tensors(growing),
    )
    profile = home.profile("half", make(tmp_path / "half"), "dtype: float16")
    smoke = home.run("smoke", "--up", profile, "--json").ok()
    assert all(smoke.checks.values())
