"""Engine release, card, and what follows from the card."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from launcher.config.profile import CheckpointNeed, HardwareNeed
from launcher.engine.releases import Host, releases
from launcher.errors import QlaunchError
from launcher.hardware.cards import hypothetical
from launcher.hardware.inventory import Hardware
from launcher.plan import engine_and_card
from launcher.plan.engine_and_card import Choice
from launcher.plan.resolve import make_plan
from tests.plan.golden import HOST
from tests.plan.inputs import inputs, qwen3, settings
from tests.samples import GIB, engine, gpu, machine

ANY_GPU = HardwareNeed(device="cuda")


def on(name: str, driver: str | None = None) -> Hardware:
    return hypothetical(name, None, machine(), driver=driver)


@pytest.mark.parametrize(
    ("card", "driver", "release"),
    [
        ("T4", None, "turing"),
        ("T4", "535.183.01", "turing"),
        ("RTX 2080", None, "turing"),
        ("A10G", "535.183.01", "cuda12"),
        ("A100", "579.99", "cuda12"),
        ("A100", "580", "cuda13"),
        ("L4", "580.95.05", "cuda13"),
        ("H100", "570.133.20", "cuda12"),
        ("H100", None, "cuda13"),
        ("B200", None, "cuda13"),
        ("RTX 5090", "590.10", "cuda13"),
    ],
)
def test_the_release_follows_the_card_and_the_driver(
    card: str, driver: str | None, release: str
) -> None:
    found = engine_and_card.choose("auto", ANY_GPU, on(card, driver), HOST)
    assert found.release.name == release
    assert found.gpu is not None
    assert release in found.reasons[0]


def test_without_a_gpu_the_cpu_engine_serves_cpu_profiles() -> None:
    found = engine_and_card.choose("auto", HardwareNeed(device="cpu"), machine(), HOST)
    assert (found.release.name, found.gpu) == ("cpu", None)


@pytest.mark.parametrize("card", ["V100", "P100", "GTX 1080", "K80"])
def test_cards_before_turing_are_refused_with_the_reason(card: str) -> None:
    with pytest.raises(QlaunchError, match="no SGLang release has kernels for it") as caught:
        engine_and_card.choose("auto", ANY_GPU, on(card), HOST)
    assert (caught.value.code, caught.value.exit_code) == ("does_not_fit", 4)
    with pytest.raises(QlaunchError, match=card):
        engine_and_card.require_kernels(on(card))


@pytest.mark.parametrize(
    ("card", "driver", "said"),
    [
        ("A10", "470.57", "engine cuda12 .* needs NVIDIA driver 525 or newer, this is 470.57"),
        ("T4", "470.57", "engine turing .* needs NVIDIA driver 525"),
    ],
)
def test_a_driver_too_old_for_all_is_refused_with_the_least_it_takes(
    card: str, driver: str, said: str
) -> None:
    with pytest.raises(QlaunchError, match=said):
        engine_and_card.choose("auto", ANY_GPU, on(card, driver), HOST)


def test_an_engine_named_outright_is_taken_or_refused() -> None:
    assert engine_and_card.choose("cuda12", ANY_GPU, on("L4"), HOST).release.name == "cuda12"
    with pytest.raises(QlaunchError, match=r"needs NVIDIA driver 580 or newer, this is 535"):
        engine_and_card.choose("cuda13", ANY_GPU, on("L4", "535"), HOST)
    with pytest.raises(QlaunchError, match=r"compute capability 7.5, it needs 8.0"):
        engine_and_card.choose("cuda13", ANY_GPU, on("T4"), HOST)
    with pytest.raises(QlaunchError, match="computes on the CPU"):
        engine_and_card.choose("cpu", ANY_GPU, on("T4"), HOST)
    with pytest.raises(QlaunchError) as caught:
        engine_and_card.choose("cuda31", ANY_GPU, on("L4"), HOST)
    assert caught.value.code == "engine_unknown"


def test_an_old_platform_gets_the_release_that_installs_there() -> None:
    old = Host(python=(3, 11, 9), machine="x86_64", glibc="2.31")
    found = engine_and_card.choose("auto", ANY_GPU, on("L4"), old)
    assert found.release.name == "cuda12"  # cuda13's wheels need glibc 2.34
    here = Host(python=(3, 11, 9), machine="x86_64", glibc="2.31", installed=frozenset({"cuda13"}))
    assert engine_and_card.choose("auto", ANY_GPU, on("L4"), here).release.name == "cuda13"


def test_of_several_cards_the_emptiest_that_suits() -> None:
    cards = (
        msgspec.structs.replace(gpu(), index=0),
        msgspec.structs.replace(gpu("A10", (8, 6), 24 * GIB, 3 * GIB), index=1),
        msgspec.structs.replace(gpu("A10", (8, 6), 24 * GIB, 23 * GIB), index=2),
    )
    found = engine_and_card.choose("auto", ANY_GPU, machine(gpus=cards), HOST)
    assert found.gpu is not None
    assert (found.gpu.index, found.only_gpu) == (2, False)


def _choice(card: str, release: str, driver: str | None = None) -> Choice:
    return engine_and_card.choose(release, ANY_GPU, on(card, driver), HOST)


@pytest.mark.parametrize(
    ("card", "release", "backend"),
    [("T4", "turing", "triton"), ("H100", "cuda13", "fa3"), ("L4", "cuda13", None)],
)
def test_the_attention_backend_follows_the_card(
    card: str, release: str, backend: str | None
) -> None:
    decision = engine_and_card.backend(_choice(card, release), qwen3())
    assert decision.value.get("attention-backend") == backend
    assert (backend or "") in " ".join(decision.reasons)
    assert bool(decision.reasons) is (backend is not None)


@pytest.mark.parametrize("card", ["A10", "H100", "T4"])
def test_heads_of_32_and_encoders_take_triton_on_every_card(card: str) -> None:
    choice = engine_and_card.choose("auto", ANY_GPU, on(card), HOST)
    small = inputs().checkpoint
    assert (small.encoder, small.head_dim) == (True, 32)
    assert engine_and_card.backend(choice, small).value == {"attention-backend": "triton"}


def _plan(choice: Choice | None, **changes: Any) -> Any:
    hardware = machine(gpus=(choice.gpu,)) if choice and choice.gpu else machine()
    release = choice.release.name if choice else "cpu"
    given: dict[str, Any] = {
        "engine": engine(release),
        "hardware": hardware,
        "checkpoint": qwen3(),
        "choice": choice,
        "settings": settings(engine=release, flags={"max-total-tokens": 4096}),
    }
    return make_plan(replace(inputs(), **(given | changes)))


def _value(argv: tuple[str, ...], option: str) -> str:
    return argv[argv.index(option) + 1]


def test_a_turing_plan_is_half_on_triton() -> None:
    plan = _plan(_choice("T4", "turing"))
    assert _value(plan.engine.argv, "--dtype") == "half"
    assert _value(plan.engine.argv, "--attention-backend") == "triton"
    assert any("attention backend triton" in reason for reason in plan.reasons)


def test_cuda12_never_overlaps_whatever_the_profile_says() -> None:
    flags = {"max-total-tokens": 4096, "disable-overlap-schedule": False}
    given = settings(engine="cuda12", flags=flags)
    plan = _plan(_choice("A10", "cuda12", "535"), settings=given)
    assert plan.engine.argv.count("--disable-overlap-schedule") == 1
    assert any("22518" in reason for reason in plan.reasons)
    newer = _plan(_choice("A10", "cuda13"))
    assert "--disable-overlap-schedule" not in newer.engine.argv


def test_a_profiles_own_backend_is_left_alone() -> None:
    given = settings(engine="cuda13", flags={"attention-backend": "triton"})
    plan = _plan(_choice("H100", "cuda13"), settings=given)
    assert _value(plan.engine.argv, "--attention-backend") == "triton"
    assert not any("fa3" in reason for reason in plan.reasons)


def test_bfloat16_on_turing_is_refused_for_the_engine_would_change_it() -> None:
    given = settings(engine="turing", dtype="bfloat16", flags={})
    with pytest.raises(QlaunchError, match="has no bfloat16") as caught:
        _plan(_choice("T4", "turing"), settings=given)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("card", "release", "method", "least"),
    [("A10", "cuda13", "fp8", "8.9"), ("T4", "turing", "gptq_marlin", "8.0")],
)
def test_a_quantisation_that_the_card_lacks_is_refused(
    card: str, release: str, method: str, least: str
) -> None:
    given = settings(engine=release, flags={"quantization": method})
    with pytest.raises(QlaunchError, match=f"{method} weights need {least}") as caught:
        _plan(_choice(card, release), settings=given)
    assert (caught.value.code, caught.value.exit_code) == ("does_not_fit", 4)


@pytest.mark.parametrize("found", [None, "fp8", "awq"])
def test_a_checkpoint_in_another_format_is_refused(found: str | None) -> None:
    given = inputs()
    profile = msgspec.structs.replace(
        given.profile, checkpoint=CheckpointNeed(quantization=["w8a8_int8", "compressed-tensors"])
    )
    with pytest.raises(QlaunchError, match="w8a8_int8 or compressed-tensors") as caught:
        make_plan(replace(inputs(), profile=profile, checkpoint=qwen3(quantization=found)))
    assert (caught.value.code, caught.value.exit_code) == ("checkpoint_unsuitable", 2)
    assert (found or "not quantised") in caught.value.message


def test_a_checkpoint_in_the_right_format_is_taken() -> None:
    profile = msgspec.structs.replace(
        inputs().profile, checkpoint=CheckpointNeed(quantization=["gptq", "awq"])
    )
    plan = _plan(_choice("L4", "cuda13"), profile=profile, checkpoint=qwen3(quantization="awq"))
    assert plan.model_path


def test_parallel_engines_see_every_card() -> None:
    cards = tuple(msgspec.structs.replace(gpu("A10", (8, 6), 24 * GIB), index=i) for i in (0, 1))
    hardware = machine(gpus=cards)
    choice = engine_and_card.choose("cuda13", ANY_GPU, hardware, HOST)
    alone = _plan(choice, hardware=hardware)
    assert alone.engine.env["CUDA_VISIBLE_DEVICES"] == "0"
    both = _plan(choice, hardware=hardware, extra=("--dp-size", "2"))
    assert both.engine.env["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_no_release_is_left_without_limits_to_choose_by() -> None:
    for release in releases().values():
        if release.device == "cuda":
            assert release.min_compute_capability
            assert release.min_driver


def test_an_unproven_release_is_taken_by_name_and_never_by_auto() -> None:
    chosen = engine_and_card.choose("cuda13-portable", ANY_GPU, on("T4"), HOST)
    assert chosen.release.kernels == "torch"
    assert "cuda13-portable" not in {r.name for r in engine_and_card.candidates("auto", ANY_GPU)}


def test_a_release_without_kernels_attends_by_pytorch_whatever_the_profile_says() -> None:
    plan = make_plan(
        inputs(
            hardware=on("T4"),
            model=qwen3(),
            release="cuda13-portable",
            flags={"attention-backend": "triton"},
        )
    )
    argv = plan.engine.argv
    assert argv[argv.index("--attention-backend") + 1] == "torch_native"
    assert argv[argv.index("--chunked-prefill-size") + 1] == "-1"
    assert plan.engine.env["SGLANG_FORCE_FUSED_OP_BACKEND"] == "torch"
    assert "standins_cuda" in plan.engine.env["PYTHONPATH"]


@pytest.mark.parametrize("method", ["hqq", "torchao", "eetq", "unknown"])
def test_weights_quantised_by_what_no_release_computes_are_refused(method: str) -> None:
    given = settings(engine="cuda13", flags={})
    with pytest.raises(QlaunchError, match=f"quantised \\({method}\\)") as caught:
        _plan(_choice("H100", "cuda13"), settings=given, checkpoint=qwen3(quantization=method))
    assert (caught.value.code, caught.value.exit_code) == ("model_unsupported", 2)


@pytest.mark.parametrize("method", ["FP8", "compressed_tensors", "gptq", "awq", "bitsandbytes"])
def test_methods_that_releases_compute_are_planned(method: str) -> None:
    given = settings(engine="cuda13", flags={})
    made = _plan(_choice("H100", "cuda13"), settings=given, checkpoint=qwen3(quantization=method))
    assert made.engine.argv
