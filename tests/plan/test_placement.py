"""The cards that an engine computes on: what it is shown, and what its memory is held against."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from launcher.documents.plan import Plan
from launcher.errors import QlaunchError
from launcher.hardware.inventory import Gpu, Hardware
from launcher.hardware.visible import shown_by
from launcher.plan import engine_and_card
from launcher.plan.resolve import make_plan
from launcher.plan.suitability import judge
from tests.plan.golden import HOST, candidates, world
from tests.plan.inputs import inputs, qwen3, settings
from tests.plan.test_engine_and_card import ANY_GPU
from tests.samples import GIB, engine, gpu, machine

CANDIDATES = {candidate.profile.name: candidate for candidate in candidates()}


def cards(*kinds: tuple[str, tuple[int, int], float, float]) -> Hardware:
    """A machine with cards of these names, capabilities, sizes and free memory (GiB), R580."""
    found = tuple(
        msgspec.structs.replace(
            gpu(name, capability, int(total * GIB), int(free * GIB)), index=at, uuid=f"GPU-{at}"
        )
        for at, (name, capability, total, free) in enumerate(kinds)
    )
    return msgspec.structs.replace(machine(gpus=found), driver_version="580.95.05")


P40 = ("Tesla P40", (6, 1), 24, 24)
RTX_3050 = ("NVIDIA GeForce RTX 3050", (8, 6), 4, 3.7)
T4 = ("Tesla T4", (7, 5), 15, 14.9)
L4 = ("NVIDIA L4", (8, 9), 22, 22)
FULL = ("NVIDIA A100-PCIE-40GB", (8, 0), 40, 0)


def plan(hardware: Hardware, *extra: str, **flags: Any) -> Plan:
    """A plan for Qwen3-0.6B's shape on what `auto` chooses of this machine."""
    choice = engine_and_card.choose("auto", ANY_GPU, hardware, HOST)
    release = choice.release.name
    given = replace(
        inputs(hardware=hardware, model=qwen3(), release=release, extra=extra),
        engine=engine(release),
        choice=choice,
        settings=settings(
            engine=release,
            flags={"max-total-tokens": 8192, "context-length": 4096, "max-prefill-tokens": 4096}
            | {name.replace("_", "-"): value for name, value in flags.items()},
        ),
    )
    return make_plan(given)


@pytest.mark.parametrize("other", [P40, FULL])
def test_memory_is_held_against_the_card_that_is_taken_not_the_largest(other: Any) -> None:
    for hardware in (cards(other, RTX_3050), cards(RTX_3050, other)):
        assert judge(CANDIDATES["a10-bf16"], world(hardware)).bucket != "runs"
        assert judge(CANDIDATES["rtx3050-bf16"], world(hardware)).bucket == "runs"


def test_sizes_that_nobody_gave_follow_the_card_that_is_taken() -> None:
    alone, beside = plan(cards(RTX_3050)), plan(cards(P40, RTX_3050))
    assert alone.predicted == beside.predicted
    assert alone.engine.argv == beside.engine.argv


def test_a_plan_that_lacks_only_what_must_be_left_beside_it_says_so() -> None:
    needed = plan(cards(T4)).predicted.gpu_full_bytes or 0
    for free, said in ((1.02 * needed, "; 5% of it must be left beside it"), (0.9 * needed, "")):
        found = plan(cards(("Tesla T4", (7, 5), 15, free / GIB)))
        assert found.misfit is not None
        assert found.misfit.partition("are free")[2] == said


def test_a_full_card_is_not_taken_for_an_empty_one() -> None:
    found = plan(cards(FULL))
    assert not found.fits
    assert "0 kB are free" in (found.misfit or "")


@pytest.mark.parametrize("option", ["tp-size", "dp-size", "tensor-parallel-size"])
def test_a_profiles_parallel_engine_sees_as_many_cards_as_it_takes(option: str) -> None:
    hardware = cards(T4, L4, L4)
    for found in (plan(hardware, **{option: 2}), plan(hardware, f"--{option}", "2")):
        assert found.engine.env["CUDA_VISIBLE_DEVICES"] == "1,2"


@pytest.mark.parametrize(
    ("hardware", "extra", "said"),
    [
        (cards(T4), ("--tp-size", "2"), r"2 GPUs \(--tp-size 2\): 1 can be used here \(Tesla T4\)"),
        (cards(L4, T4), ("--dp-size", "2"), "1 can be used here"),
        (cards(L4, L4), ("--tp-size", "2", "--dp-size", "2"), "4 GPUs"),
        (cards(L4, L4), ("--base-gpu-id", "2"), "3 GPUs"),
        (cards(L4, L4), ("--tp-size", "2", "--gpu-id-step", "2"), "3 GPUs"),
        (cards(T4, L4), ("--base-gpu-id", "0"), "is for NVIDIA L4, and they name Tesla T4"),
    ],
)
def test_more_cards_than_there_are_end_in_the_plan(
    hardware: Hardware, extra: tuple[str, ...], said: str
) -> None:
    with pytest.raises(QlaunchError, match=said) as caught:
        plan(hardware, *extra)
    assert (caught.value.code, caught.value.exit_code) == ("does_not_fit", 4)


def test_copies_that_share_the_parts_of_a_model_take_no_further_cards() -> None:
    attention = ("--tp-size", "2", "--dp-size", "2", "--enable-dp-attention")
    found = plan(cards(L4, L4), *attention)
    assert found.engine.env["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_a_user_who_counts_the_cards_is_shown_them_all() -> None:
    found = plan(cards(T4, L4), "--base-gpu-id", "1")
    assert "CUDA_VISIBLE_DEVICES" not in found.engine.env


def test_the_slice_with_most_memory_free_is_taken_not_the_first() -> None:
    hardware = cards(("H100 MIG 1g.10gb", (9, 0), 9.6, 4), ("H100 MIG 3g.40gb", (9, 0), 39, 39))
    slices = tuple(
        msgspec.structs.replace(each, mig=True, uuid=f"MIG-{each.index}") for each in hardware.gpus
    )
    found = plan(msgspec.structs.replace(hardware, gpus=slices))
    assert found.engine.env["CUDA_VISIBLE_DEVICES"] == "MIG-1"


def test_slices_are_not_joined() -> None:
    hardware = cards(L4, L4)
    slices = tuple(
        msgspec.structs.replace(each, mig=True, uuid=f"MIG-{each.index}") for each in hardware.gpus
    )
    with pytest.raises(QlaunchError, match="is a MIG slice"):
        plan(msgspec.structs.replace(hardware, gpus=slices), "--tp-size", "2")


@pytest.mark.parametrize(("value", "taken"), [("0", "turing"), ("1", "cuda13"), ("0,1", "cuda13")])
def test_the_cards_that_a_profile_shows_are_chosen_from(value: str, taken: str) -> None:
    hardware = shown_by(cards(T4, L4), {"CUDA_VISIBLE_DEVICES": value})
    assert engine_and_card.choose("auto", ANY_GPU, hardware, HOST).release.name == taken


@pytest.mark.parametrize("value", ["", "-1", "7", "GPU-9"])
def test_a_profile_that_shows_no_card_is_refused(value: str) -> None:
    hardware = shown_by(cards(T4), {"CUDA_VISIBLE_DEVICES": value})
    with pytest.raises(QlaunchError, match="in the profile's env shows none") as caught:
        engine_and_card.choose("auto", ANY_GPU, hardware, HOST)
    assert caught.value.exit_code == 4


def test_another_machine_is_not_seen_through_this_profiles_numbers() -> None:
    there = msgspec.structs.replace(cards(T4), assumed=("its driver",))
    assert shown_by(there, {"CUDA_VISIBLE_DEVICES": "3"}) is there
    assert shown_by(machine(), {"CUDA_VISIBLE_DEVICES": "3"}).gpu_status == machine().gpu_status


# --- the share of the card that is for weights and cache ---------------------------------------


def share(found: Plan) -> str:
    argv = found.engine.argv
    return argv[argv.index("--mem-fraction-static") + 1]


@pytest.mark.parametrize("kind", [RTX_3050, T4, L4])
def test_the_share_is_not_left_to_an_engine_that_has_none_for_small_cards(kind: Any) -> None:
    found = plan(cards(kind))
    assert share(found) == "0.95"
    assert any("mem-fraction-static 0.95" in reason for reason in found.reasons)
    assert share(plan(cards(kind), mem_fraction_static=0.8)) == "0.8"


def sglangs_own(total_mib: int, chunk: int) -> float:
    """SGLang 0.5.23's own share of one card, without graphs (srt/arg_groups/memory_hook.py)."""
    return round((total_mib - 512 - 1.5 * max(chunk, 2048) - 1024 / 8) / total_mib, 3)


def left_for_the_cache(before: Gpu, context: int, weights: int, part: float) -> float:
    """What it has for the cache (srt/mem_cache/kv_cache_configurator.py)."""
    free = (before.memory_free_bytes or 0) - context
    return free - weights - free * (1 - part)


def test_sglangs_own_share_leaves_nothing_on_a_card_of_4_gb_and_ours_the_whole_cache() -> None:
    hardware = cards(RTX_3050)
    found = plan(hardware)
    terms = {term.name: term.bytes for term in found.predicted.terms if term.device == "gpu"}
    sizes = (hardware.gpus[0], terms["CUDA context"], terms["weights"])
    assert left_for_the_cache(*sizes, sglangs_own(4096, 2048)) < 0
    assert left_for_the_cache(*sizes, float(share(found))) > terms["KV cache"]


@pytest.mark.parametrize(
    ("given", "fits"), [("0.3", False), ("0.45", False), ("0.72", True), ("0.95", True)]
)
def test_a_share_too_small_for_the_model_is_told_in_the_plan(given: str, fits: bool) -> None:
    found = plan(cards(RTX_3050), "--mem-fraction-static", given)
    assert found.fits is fits
    if not fits:
        assert f"--mem-fraction-static {given}: weights and cache may take" in (found.misfit or "")
        assert "--mem-fraction-static 0." in (found.remedy or "")
        better = (found.remedy or "").split()[1]
        assert plan(cards(RTX_3050), "--mem-fraction-static", better).fits


@pytest.mark.parametrize(
    ("available", "limit", "fits"), [(9, None, False), (9, 12, True), (12, None, True)]
)
def test_on_a_cpu_it_is_of_the_machine_s_memory_not_of_a_control_group_s(
    available: int, limit: int | None, fits: bool
) -> None:
    """Qwen3-1.7B's size in float32, nearly half again of the 9 GiB that are free."""
    hardware = machine(
        bf16=False, available=available * GIB, limit=limit and limit * GIB, vectors=False
    )
    large = qwen3(parameters=1_400_000_000, weight_bytes=2_800_000_000)
    flags = {"mem-fraction-static": 0.5, "max-total-tokens": 1024, "context-length": 512}
    found = make_plan(inputs(hardware=hardware, model=large, flags=flags))
    assert found.fits is fits
    assert fits or "of RAM, and" in (found.misfit or "")
