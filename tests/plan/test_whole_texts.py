"""Where every text is whole in its batch, no cache is planned, and the plugin is told so."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.argv import FlagValue
from launcher.config.loading import load_profile
from launcher.documents.plan import Plan
from launcher.model.checkpoint import Checkpoint
from launcher.plan.resolve import make_plan
from tests.plan.inputs import checkpoint, inputs, qwen3


def cache_bytes(plan: Plan) -> int:
    return next(term.bytes for term in plan.predicted.terms if term.name == "KV cache")


def without(plan: Plan) -> bool:
    """Whether memory and environment say that there is no cache; they never differ."""
    told = plan.engine.env.get("QLAUNCH_KV_CACHE") == "none"
    assert told is (cache_bytes(plan) == 0)
    return told


WHOLE: dict[str, FlagValue] = {
    "attention-backend": "torch_native",
    "disable-radix-cache": True,
    "chunked-prefill-size": -1,
    "mem-fraction-static": 0.5,
    "max-total-tokens": 8704,
    "context-length": 8192,
}


@pytest.mark.parametrize("model", [checkpoint(), qwen3()], ids=["encoder", "decoder"])
def test_whole_texts_need_no_cache(model: Checkpoint) -> None:
    assert without(make_plan(inputs(model=model, flags=WHOLE)))


@pytest.mark.parametrize(
    "change",
    [
        {"disable-radix-cache": False},
        {"chunked-prefill-size": 2048},
        {"attention-backend": "intel_amx"},
    ],
)
def test_a_prefix_a_chunk_or_another_backend_needs_one(change: dict[str, FlagValue]) -> None:
    assert not without(make_plan(inputs(model=qwen3(), flags=WHOLE | change)))


def test_without_the_plugin_the_engine_keeps_its_cache() -> None:
    assert not without(make_plan(inputs(model=qwen3(), flags=WHOLE, plugin=False)))


def test_options_of_the_command_line_count() -> None:
    plan = make_plan(inputs(model=qwen3(), flags=WHOLE, extra=("--chunked-prefill-size=2048",)))
    assert not without(plan)


def test_a_text_longer_than_the_prefill_limit_is_computed_in_one_piece() -> None:
    """With chunking off the limit does not cut it, so the largest batch is the whole context."""
    small = make_plan(inputs(model=qwen3(), flags=WHOLE | {"max-prefill-tokens": 2048}))
    large = make_plan(inputs(model=qwen3(), flags=WHOLE | {"max-prefill-tokens": 8192}))
    assert small.predicted.ram_full_bytes == large.predicted.ram_full_bytes


@pytest.mark.parametrize("name", ["cpu-minilm", "cpu-bge-micro", "cpu-gte-tiny"])
def test_shipped_encoders_on_a_cpu_have_none(name: str, tmp_path: Any) -> None:
    flags = dict(load_profile(name, tmp_path).profile.flags)
    assert without(make_plan(inputs(flags=flags)))


def test_the_shipped_qwen3_on_a_cpu_has_none(tmp_path: Any) -> None:
    flags = dict(load_profile("cpu-qwen3-0.6b", tmp_path).profile.flags)
    plan = make_plan(inputs(model=qwen3(), flags=flags))
    assert without(plan)
    assert plan.predicted.ram_bytes is not None
    assert plan.predicted.ram_bytes < 2_300_000_000
