"""float16 where activations pass its end: infinite as SGLang computes, right with the plugin."""

from __future__ import annotations

import pytest

from tests.engine_real.inside_process import Ask

END = 65504.0
"""The greatest number of float16."""
AGREES = 0.999


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
