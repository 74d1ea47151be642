"""What is planned on every processor of tests/processors, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.plan.resolve import make_plan
from tests.plan.golden_cpus import GOLDEN, MASKS, of, row
from tests.plan.inputs import inputs
from tests.processors import PROCESSORS, cpu
from tests.samples import machine

TABLE: dict[str, Any] = json.loads(GOLDEN.read_text("utf-8"))


def test_every_processor_is_in_the_table() -> None:
    assert set(TABLE) == {*PROCESSORS, *MASKS}


@pytest.mark.parametrize("name", [*PROCESSORS, *MASKS])
def test_the_golden_answer(name: str, tmp_path: Path) -> None:
    processor, environ = MASKS.get(name, (name, {}))
    found = row(of(cpu(processor, tmp_path, environ)))
    assert found == TABLE[name], "if that is right: python -m tests.plan.golden_cpus"


@pytest.mark.parametrize(("name", "known"), PROCESSORS.items())
def test_the_answers_that_the_table_must_keep_whoever_rewrites_it(name: str, known: Any) -> None:
    golden = TABLE[name]
    for profile in ("cpu-minilm", "cpu-qwen3-0.6b"):
        assert golden[profile]["release"] == "cpu"
        assert golden[profile]["engine_dtype"] == ("bfloat16" if known.bf16 else "float32")
        asked = golden[f"{profile}, int8"]
        if known.machine == "x86_64" and known.vectors:
            assert asked["plugin_dtype"] == "int8"
            assert asked["engine_dtype"] == golden[profile]["engine_dtype"]
            assert ("7 bits" in asked["reasons"][0]) is not known.int8
        else:
            assert asked.startswith("cannot: dtype int8 is not available here: ")


def test_a_processor_under_a_mask_is_planned_for_as_one_without() -> None:
    masked, real = TABLE["zen4 masked to AVX2"], TABLE["zen3"]
    for profile in ("cpu-minilm", "cpu-qwen3-0.6b"):
        for fact in ("engine_dtype", "plugin_dtype", "threads", "parity_min"):
            assert masked[profile][fact] == real[profile][fact]
        assert "(masked by ONEDNN_MAX_CPU_ISA=AVX2)" in masked[profile]["reasons"][0]
    assert "(masked by ONEDNN_MAX_CPU_ISA=AVX2)" in masked["cpu-minilm, int8"]["reasons"][0]


def test_a_mask_in_the_profile_s_env_counts_like_one_in_the_environment(tmp_path: Path) -> None:
    hardware = of(cpu("zen4", tmp_path))
    plan = make_plan(inputs(hardware=hardware, env={"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}))
    assert plan.expectation.dtype == "float32"
    assert any("(masked by ONEDNN_MAX_CPU_ISA=AVX512_CORE)" in each for each in plan.reasons)
    assert make_plan(inputs(hardware=hardware)).expectation.dtype == "bfloat16"


def test_bfloat16_that_is_asked_for_where_it_is_emulated_is_served_with_a_warning() -> None:
    asked: dict[str, Any] = {"dtype": "bfloat16", "sources": {"dtype": "command line"}}
    plan = make_plan(inputs(hardware=machine(bf16=False), **asked))
    assert plan.expectation.dtype == "bfloat16"
    reason = next(each for each in plan.reasons if each.startswith("dtype bfloat16"))
    assert reason.startswith("dtype bfloat16: command line; this CPU has no bfloat16 arithmetic")
    assert "dtype bfloat16: command line" in make_plan(inputs(**asked)).reasons
