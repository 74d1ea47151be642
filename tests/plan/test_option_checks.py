"""Options with which an engine serves no embeddings, or does not start, end in the plan."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launcher.argv import FlagValue
from launcher.config.profile import HardwareNeed
from launcher.errors import QlaunchError
from launcher.plan.engine_and_card import choose
from launcher.plan.option_checks import TEXTS_OF_A_CALL
from launcher.plan.resolve import make_plan
from launcher.verify import corpus
from tests.plan.golden import HOST
from tests.plan.inputs import inputs, qwen3
from tests.samples import machine

BOTH = ("enable-tokenizer-batch-encode", "enable-dynamic-batch-tokenizer")


def test_two_options_of_which_sglang_takes_one_are_refused() -> None:
    """`plan` was content, and `up` failed after 13 s."""
    for given in (
        inputs(flags=dict.fromkeys(BOTH, True)),
        inputs(flags={BOTH[0]: True}, extra=(f"--{BOTH[1]}",)),
    ):
        with pytest.raises(QlaunchError, match="SGLang takes one of them") as caught:
            make_plan(given)
        assert (caught.value.code, int(caught.value.exit_code)) == ("flag_invalid", 5)
    make_plan(inputs(flags={BOTH[0]: False, BOTH[1]: True}))


def test_a_cache_of_prefixes_in_ram_without_any_is_refused() -> None:
    """`up` failed after 4 s, in SGLang's words: a shipped profile has the latter."""
    both = {"enable-hierarchical-cache": True, "disable-radix-cache": True}
    with pytest.raises(QlaunchError, match="SGLang takes one of them"):
        make_plan(inputs(model=qwen3(), flags=dict(both)))


def test_an_engine_that_takes_no_texts_is_refused() -> None:
    """It started, failed its proof, and the advice was an option that it had."""
    with pytest.raises(QlaunchError, match="takes no texts") as caught:
        make_plan(inputs(flags={"skip-tokenizer-init": True}))
    assert caught.value.fix == "leave it out"
    make_plan(inputs(flags={"skip-tokenizer-init": False}))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("max-running-requests", 0, "1 is the least that serves anything"),
        ("max-prefill-tokens", 0, "1 is the least"),
        ("max-total-tokens", 12, "32 is the least"),
        ("context-length", 16, "31 is the least"),
        ("page-size", 0, "1 is the least"),
        ("tokenizer-worker-num", 0, "1 is the least"),
        ("tp-size", 2, "an engine computes a whole model"),
        ("pp-size", 2, "an engine computes a whole model"),
        ("nnodes", 2, "an engine computes a whole model"),
        ("attention-backend", "triton", "on a CPU the engine has torch_native, intel_amx"),
        ("prefill-attention-backend", "fa3", "on a CPU the engine has torch_native"),
        ("kv-cache-dtype", "fp8_e5m2", "on a CPU the engine has auto, bf16"),
        ("load-format", "dummy", "the weights are random then"),
        ("tokenizer-path", "/nonexistent", "the tokenizer of its checkpoint"),
        ("delete-ckpt-after-loading", True, "it deletes the model's files"),
        ("max-queued-requests", 127, "proved with calls of up to 128"),
        ("log-level", "loud", "there is critical, error, warning, info, debug"),
        ("log-level-http", "loud", "there is critical"),
        ("ssl-keyfile", "/nonexistent", "without TLS"),
        ("ssl-certfile", "/nonexistent", "without TLS"),
        ("json-model-override-args", "{", "a JSON object is wanted"),
        ("json-model-override-args", "[1]", "a JSON object is wanted"),
        ("speculative-algorithm", "EAGLE", "which an embedding has none of"),
        ("random-seed", 99999999999999999999, "numbers from 0 to 4294967295"),
        ("random-seed", -1, "numbers from 0 to 4294967295"),
        ("mem-fraction-static", 7, "above 0 and below 1"),
        ("mem-fraction-static", 0.0, "above 0 and below 1"),
        ("mem-fraction-static", 1.0, "above 0 and below 1"),
        ("mem-fraction-static", "nan", "above 0 and below 1"),
        ("schedule-conservativeness", -0.5, "numbers at least 0"),
        ("gpu-id-step", 0, "numbers at least 1"),
        ("base-gpu-id", -1, "numbers at least 0"),
        ("grpc-port", 70000, "numbers from 1 to 65535"),
        ("grpc-response-timeout-secs", 0, "numbers at least 1"),
        ("tp-size", 0, "1 is the least"),
        ("nnodes", 0, "1 is the least"),
        ("prefill-only-disable-kv-cache", True, "for FlashAttention alone"),
        ("node-rank", 3, "with --nnodes 1 the engine takes numbers from 0 to 0"),
        ("page-size", 100_000, "no room for a text in such pages"),
        ("kv-cache-dtype", "fp8_e4m3", "on a CPU the engine has auto, bf16, bfloat16$"),
        ("attention-backend", "flex_attention", "attends to earlier tokens alone"),
        ("prefill-attention-backend", "flex_attention", "attends to earlier tokens alone"),
    ],
)
def test_what_starts_and_serves_nothing_ends_in_the_plan(
    name: str, value: str | float | bool, said: str
) -> None:
    """It ended in a start of 45 s and the advice to change another option, or in a traceback."""
    words = (f"--{name}",) if value is True else (f"--{name}", str(value))
    for given in (inputs(flags={name: value}), inputs(extra=words)):
        with pytest.raises(QlaunchError, match=said) as caught:
            make_plan(given)
        assert caught.value.code == "flag_invalid"


def test_a_number_out_of_bounds_is_to_be_changed_or_left_out() -> None:
    with pytest.raises(QlaunchError, match="from 0 to 4294967295") as caught:
        make_plan(inputs(flags={"random-seed": 2**32}))
    assert caught.value.fix == "write a number that is taken, or leave it out"


def test_the_same_options_with_values_that_serve_are_let_through() -> None:
    fine = ("--max-running-requests", "1", "--tp-size", "1", "--load-format", "auto")
    make_plan(inputs(extra=(*fine, "--page-size", "1", "--max-total-tokens", "32")))
    make_plan(inputs(flags={"random-seed": 2**32 - 1, "schedule-conservativeness": 0.3}))
    make_plan(inputs(extra=("--mem-fraction-static", "0.9", "--random-seed", "0")))
    more = ("--max-running-requests", "8", "--max-queued-requests", "128", "--log-level", "DEBUG")
    make_plan(inputs(extra=(*more, "--json-model-override-args", '{"is_matryoshka": true}')))


def test_the_queue_has_room_for_every_call_of_a_proof() -> None:
    """`up` with 72 was content, and `verify` of the same service said that all checks failed."""
    assert len(corpus.CORPUS) + 1 <= TEXTS_OF_A_CALL
    with pytest.raises(QlaunchError, match="calls of up to 264"):
        make_plan(inputs(flags={"max-running-requests": 256, "max-queued-requests": 263}))


def test_a_quantisation_that_is_asked_for_on_the_command_line_is_looked_at_too() -> None:
    chosen = choose("cpu", HardwareNeed(device="cpu"), machine(), HOST)
    given = replace(inputs(extra=("--quantization", "fp8")), choice=chosen)
    with pytest.raises(QlaunchError, match="kernels that this engine has for GPUs only"):
        make_plan(given)


def test_one_port_for_the_service_and_its_metrics_is_refused() -> None:
    """`up` named its own supervisor as the process that had taken it."""
    with pytest.raises(QlaunchError, match="port 30777 is asked for twice") as caught:
        make_plan(inputs(port=30777, metrics_port=30777))
    assert caught.value.code == "usage"
    make_plan(inputs(port=0, metrics_port=0))


@pytest.mark.parametrize(
    ("name", "value", "most"),
    [
        ("max-total-tokens", 10**20, 2**31 - 1),
        ("max-total-tokens", 2**31, 2**31 - 1),
        ("max-running-requests", 2**40, 2**31 - 1),
        ("chunked-prefill-size", -(2**40), 2**31 - 1),
        ("tokenizer-worker-num", 10**30, 2**31 - 1),
        ("stream-interval", 2**63, 2**63 - 1),
    ],
)
def test_a_number_that_no_engine_could_hold_is_refused(name: str, value: int, most: int) -> None:
    """10^20 tokens "fitted": nothing was asked of a number but to be one."""
    for given in (inputs(flags={name: value}), inputs(extra=(f"--{name}={value}",))):
        with pytest.raises(QlaunchError, match=f"takes numbers up to {most}") as caught:
            make_plan(given)
        assert caught.value.code == "flag_invalid"


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e20])
def test_a_fraction_that_is_no_number_of_tokens_is_refused(value: float) -> None:
    with pytest.raises(QlaunchError, match="takes numbers up to 2147483647"):
        make_plan(inputs(flags={"max-total-tokens": value}))


@pytest.mark.parametrize("unit", ["", "k", "Ki"])
def test_a_number_of_thousands_of_digits_is_refused_in_one_sentence(unit: str) -> None:
    """Python reads no such number, and said so in a traceback."""
    number = "9" * 5000 + unit
    for given in (
        inputs(extra=("--max-total-tokens", number)),
        inputs(extra=(f"--max-total-tokens={number}",)),
        inputs(flags={"max-total-tokens": number}),
    ):
        with pytest.raises(QlaunchError, match="takes a whole number") as caught:
            make_plan(given)
        assert len(caught.value.message) < 200


def test_an_option_after_the_dashes_is_about_no_file() -> None:
    """The profile's line was named, which says another value."""
    sources = {"flags.max-total-tokens": "profile /p.yaml:3"}
    flags: dict[str, FlagValue] = {"max-total-tokens": 4096}
    extra = ("--max-total-tokens", str(2**31))
    with pytest.raises(QlaunchError, match=r"^--max-total-tokens 2147483648"):
        make_plan(inputs(flags=flags, sources=sources, extra=extra))


def test_a_line_is_named_for_a_number_that_is_too_large() -> None:
    sources = {"flags.max-total-tokens": "profile /p.yaml:3"}
    with pytest.raises(QlaunchError, match=r"^profile /p\.yaml:3: --max-total-tokens"):
        make_plan(inputs(flags={"max-total-tokens": 2**31}, sources=sources))


def test_what_an_engine_of_the_users_own_may_have_is_let_through() -> None:
    """Compiled kernels for AMX have that format; those on PyPI have no such kernels."""
    own = inputs(flags={"kv-cache-dtype": "fp8_e4m3"}, engine_python="/own/bin/python")
    assert "fp8_e4m3" in make_plan(own).engine.argv


def test_a_backend_for_earlier_tokens_serves_models_that_attend_to_them() -> None:
    flags = {"attention-backend": "flex_attention"}
    assert "flex_attention" in make_plan(inputs(model=qwen3(), flags=dict(flags))).engine.argv
    with pytest.raises(QlaunchError, match="earlier tokens alone"):
        make_plan(inputs(model=qwen3(both_ways=True), flags=dict(flags)))
    spared = {"decode-attention-backend": "flex_attention"}
    assert "flex_attention" in make_plan(inputs(flags=dict(spared))).engine.argv
