"""What a profile leaves out is computed from the model and the memory that is free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from launcher.config.loading import load_profile, shipped_dir
from launcher.documents.plan import Plan
from launcher.plan import sizes
from launcher.plan.engine_and_card import candidates
from launcher.plan.resolve import make_plan
from tests.plan.inputs import checkpoint, inputs, qwen3
from tests.samples import GIB, gpu, machine

BERT_LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_layers": 24,
    "num_attention_heads": 16,
    "num_kv_heads": 16,
    "head_dim": 64,
    "intermediate_size": 4096,
    "parameters": 335_000_000,
    "dimensions": 1024,
}


def option(argv: Sequence[str], name: str) -> str | None:
    return argv[argv.index(f"--{name}") + 1] if f"--{name}" in argv else None


def number(plan: Plan, name: str) -> int:
    text = option(plan.engine.argv, name)
    assert text is not None, name
    return int(text)


def test_a_bare_profile_of_minilm_does_not_take_all_memory_for_its_cache() -> None:
    """Its plan was 13.6 GB, 12.6 of them KV cache that nobody had asked for."""
    plan = make_plan(inputs())
    cache = next(term for term in plan.predicted.terms if term.name == "KV cache")
    assert (number(plan, "max-total-tokens"), cache.bytes) == (16384, 0)
    assert plan.predicted.ram_full_bytes is not None
    assert plan.predicted.ram_full_bytes < 1.5 * GIB
    assert plan.fits


def test_a_bare_profile_gets_what_the_shipped_one_of_its_model_says() -> None:
    shipped = load_profile("cpu-minilm", Path("/nonexistent")).profile
    bare, whole = make_plan(inputs()), make_plan(inputs(flags=dict(shipped.flags)))
    options = sorted(" ".join(bare.engine.argv).split(" --"))
    assert options == sorted(" ".join(whole.engine.argv).split(" --"))
    assert bare.predicted == whole.predicted


@pytest.mark.parametrize("name", sorted(path.stem for path in shipped_dir().glob("*.yaml")))
def test_nothing_is_added_to_a_shipped_profile(name: str) -> None:
    profile = load_profile(name, Path("/nonexistent")).profile
    assert {"max-total-tokens", "max-running-requests"} <= profile.flags.keys()
    if profile.hardware.device == "cpu":
        assert profile.flags.keys() >= sizes.CPU_SWITCHES.keys()
    releases = {each.name for each in candidates(profile.engine, profile.hardware)}
    if sizes.TURING in releases:
        flags = {**profile.flags, **profile.flags_by_engine.get(sizes.TURING, {})}
        assert flags.keys() >= sizes.TURING_SWITCHES.keys()


def test_a_bare_decoder_on_a_cpu_keeps_its_texts_whole() -> None:
    """Its plan had pieces and a cache of 0.9 GiB that the shipped profile does without."""
    plan = make_plan(inputs(model=qwen3()))
    assert number(plan, "context-length") == 8192
    assert number(plan, "max-total-tokens") == 8704
    assert number(plan, "chunked-prefill-size") == -1
    assert number(plan, "max-prefill-tokens") > 8192
    assert number(plan, "max-running-requests") == 32
    assert "--disable-radix-cache" in plan.engine.argv
    assert option(plan.engine.argv, "mem-fraction-static") == "0.95"
    assert plan.engine.env["QLAUNCH_KV_CACHE"] == "none"
    assert plan.fits


def test_a_bare_decoder_with_little_memory_gets_a_shorter_context() -> None:
    model, free = qwen3(), int(2.5 * GIB)
    plan = make_plan(inputs(hardware=machine(available=free), model=model))
    assert 512 <= number(plan, "context-length") < 8192
    assert plan.fits, plan.reasons[0]


def test_a_decoder_gets_a_context_a_cache_for_it_and_pieces() -> None:
    """Without the plugin, or where the user wants a prefix cache."""
    kept = {"disable-radix-cache": False}
    for plan in (
        make_plan(inputs(model=qwen3(), plugin=False)),
        make_plan(inputs(model=qwen3(), flags=kept)),
    ):
        assert number(plan, "context-length") == 8192
        assert number(plan, "max-total-tokens") == 8704
        assert number(plan, "chunked-prefill-size") == 2048
        assert "QLAUNCH_KV_CACHE" not in plan.engine.env
        assert number(plan, "max-running-requests") == 32
        assert plan.expectation.context_length == 8192
        assert plan.fits


def test_a_decoder_on_a_card_gets_room_for_several_long_texts() -> None:
    hardware = machine(gpus=(gpu(total=15 * GIB),))
    plan = make_plan(inputs(hardware=hardware, model=qwen3(), release="turing"))
    assert number(plan, "context-length") == 8192
    assert number(plan, "max-total-tokens") == 32768
    assert plan.fits
    assert option(plan.engine.argv, "sleep-on-idle") is None
    assert option(plan.engine.argv, "sampling-backend") == "pytorch"
    assert "--disable-cuda-graph" in plan.engine.argv
    assert any("set for engine turing: --sampling-backend" in each for each in plan.reasons)


def test_a_small_card_gets_a_smaller_cache_and_context() -> None:
    hardware = machine(gpus=(gpu(total=3 * GIB),))
    plan = make_plan(inputs(hardware=hardware, model=qwen3(), release="turing"))
    assert number(plan, "max-total-tokens") < 8704
    assert number(plan, "context-length") == number(plan, "max-total-tokens") - 512
    assert plan.fits


@pytest.mark.parametrize("free", [2.2, 2.6, 4.0, 8.0, 32.0])
def test_a_large_encoder_fits_wherever_its_weights_leave_room(free: float) -> None:
    model = checkpoint(**BERT_LARGE)
    plan = make_plan(inputs(hardware=machine(available=int(free * GIB)), model=model))
    assert plan.fits, plan.reasons[0]
    assert number(plan, "max-total-tokens") > 513
    assert 513 <= number(plan, "max-prefill-tokens") <= number(plan, "max-total-tokens")


def test_where_even_the_least_does_not_fit_the_plan_says_so() -> None:
    model = checkpoint(**BERT_LARGE)
    plan = make_plan(inputs(hardware=machine(available=GIB), model=model))
    assert not plan.fits
    assert number(plan, "max-total-tokens") == 1024


def test_an_encoder_of_long_texts_gets_room_for_one_of_them_in_one_pass() -> None:
    plan = make_plan(inputs(model=checkpoint(context_length=32_768)))
    assert number(plan, "max-total-tokens") == 33_280
    assert number(plan, "max-prefill-tokens") > 32_768
    assert number(plan, "chunked-prefill-size") == -1


def test_a_decoder_that_attends_both_ways_is_never_split() -> None:
    plan = make_plan(inputs(model=qwen3(both_ways=True)))
    assert number(plan, "chunked-prefill-size") == -1
    assert number(plan, "max-prefill-tokens") > number(plan, "context-length")


@pytest.mark.parametrize("release", ["cpu", "cpu-0.5.15", "cuda13", "cuda13-portable"])
def test_the_texts_of_a_call_reach_the_scheduler_together(release: str) -> None:
    plan = make_plan(
        inputs(hardware=machine(gpus=(gpu("NVIDIA A10", (8, 6), 24 * GIB),)), release=release)
    )
    assert f"--{sizes.TOGETHER}" in plan.engine.argv
    assert any("else the first text of a call is computed alone" in why for why in plan.reasons)


@pytest.mark.parametrize("release", ["turing", "cuda12"])
def test_an_engine_that_would_read_them_all_at_once_is_not_asked_for_it(release: str) -> None:
    """SGLang 0.5.1 refuses token ids with it; 0.5.10 has no framework for the plugin's slices."""
    card = gpu("Tesla T4") if release == "turing" else gpu("NVIDIA A10", (8, 6), 24 * GIB)
    plan = make_plan(inputs(hardware=machine(gpus=(card,)), release=release))
    assert f"--{sizes.TOGETHER}" not in plan.engine.argv
    assert f"--{sizes.TOGETHER}" not in make_plan(inputs(plugin=False)).engine.argv


@pytest.mark.parametrize("other", sorted(sizes.APART | {"tokenizer-worker-num"}))
def test_what_goes_with_no_such_message_is_left_without_it(other: str) -> None:
    value = "2" if other.endswith("num") else True
    words = (f"--{other}", "2") if value == "2" else (f"--{other}",)
    for plan in (make_plan(inputs(flags={other: value})), make_plan(inputs(extra=words))):
        assert f"--{sizes.TOGETHER}" not in plan.engine.argv


def test_the_message_can_be_said_no_to_and_other_options_too() -> None:
    plan = make_plan(inputs(flags={sizes.TOGETHER: False}))
    assert f"--{sizes.TOGETHER}" not in plan.engine.argv
    plan = make_plan(inputs(flags={"enable-dynamic-batch-tokenizer": False}))
    assert f"--{sizes.TOGETHER}" in plan.engine.argv


def test_what_the_profile_or_the_command_line_says_is_kept() -> None:
    flags = {"max-total-tokens": 4096, "sleep-on-idle": False}
    plan = make_plan(inputs(flags=flags, extra=("--max-running-requests", "7")))
    assert number(plan, "max-total-tokens") == 4096
    assert number(plan, "max-running-requests") == 7
    assert "--sleep-on-idle" not in plan.engine.argv
    assert option(plan.engine.argv, "max-prefill-tokens") is None
    plan = make_plan(inputs(model=qwen3(), flags={"context-length": 2048}, plugin=False))
    assert number(plan, "context-length") == 2048
    assert option(plan.engine.argv, "chunked-prefill-size") is None


def test_the_plan_says_which_figures_nobody_wrote() -> None:
    plan = make_plan(inputs(flags={"max-running-requests": 64}))
    switches = next(each for each in plan.reasons if "set for a CPU" in each)
    assert "--attention-backend torch_native, --disable-overlap-schedule" in switches
    computed = next(each for each in plan.reasons if "computed from the model" in each)
    assert "--max-total-tokens 16384, --max-prefill-tokens 16384" in computed
    assert "max-running-requests" not in computed


def test_replicas_share_the_memory_that_is_free() -> None:
    model = checkpoint(**BERT_LARGE)
    hardware = machine(available=6 * GIB)
    alone = make_plan(inputs(hardware=hardware, model=model))
    shared = make_plan(inputs(hardware=hardware, model=model, flags={"dp-size": 2}))
    assert number(shared, "max-total-tokens") < number(alone, "max-total-tokens")
