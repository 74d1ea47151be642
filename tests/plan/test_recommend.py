"""Buckets, knobs, policy and evidence."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from launcher.config.settings import UserConfig, for_release, resolve
from launcher.documents.plan import Plan
from launcher.engine.command import render
from launcher.engine.options import flags as flag_tables
from launcher.engine.releases import Host, release
from launcher.errors import QlaunchError
from launcher.hardware.cards import hypothetical, known_cards
from launcher.hardware.inventory import Hardware
from launcher.plan import engine_and_card
from launcher.plan.past_runs import evidence
from launcher.plan.recommend import (
    ORDER,
    PastRun,
    Recommendation,
    age,
    idle_gpu,
    judge_all,
    kind_of,
    recommend,
)
from launcher.plan.resolve import make_plan
from launcher.plan.suitability import LEAST, STEP, Candidate, judge
from tests.plan.golden import HOST, candidates, engine, world
from tests.plan.inputs import inputs
from tests.samples import GIB, gpu, machine

MIB = 1 << 20
CANDIDATES = {candidate.profile.name: candidate for candidate in candidates()}


def on(name: str | None = None, vram: int | None = None) -> Hardware:
    return hypothetical(name, vram, machine())


def status(words: str) -> Hardware:
    """A machine whose driver says this, and shows no card."""
    return msgspec.structs.replace(machine(), gpu_status=words)


def best(hardware: Hardware, runs: list[PastRun] | None = None) -> Recommendation:
    here = world(hardware)
    return recommend(judge_all(CANDIDATES.values(), here), here, runs or [])


def test_a_t4_one_does_not_sit_at() -> None:
    found = best(on("T4"))
    assert (found.profile, found.release, found.dtype) == ("t4-fp16", "turing", "float16")
    argv = " ".join(found.argv)
    assert "--dtype half" in argv
    assert "--attention-backend triton" in argv
    assert found.evidence.measured is False
    assert "not measured" in found.evidence.text
    assert any("taken as new enough" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    ("card", "kind"),
    [
        ("RTX 3060", "direct"),
        ("GTX 1650", "direct"),
        ("MX450", "quantised"),
        ("MX570", "quantised"),
    ],
)
def test_the_line_between_direct_and_quantised_is_four_gibibytes(card: str, kind: str) -> None:
    assert best(on(card)).kind == kind


@pytest.mark.parametrize(
    ("size", "kind"),
    [
        (16 * GIB, "direct"),
        (4 * GIB, "direct"),
        (3 * GIB, "quantised"),
        (2 * GIB, "quantised"),
        (1 * GIB, "small on the GPU"),
        (300 * MIB, "small on the CPU"),
    ],
)
def test_the_policy_by_memory(size: int, kind: str) -> None:
    assert best(on(None, size)).kind == kind


def test_a_quantised_recommendation_says_what_the_user_must_bring() -> None:
    found = best(on("MX450"))
    assert found.needs is not None
    assert "given with --model" in found.needs
    without = [a.profile for a in found.alternatives if a.needs is None]
    assert without[0] == "gpu-minilm"


def test_offload_comes_last_and_with_its_warning() -> None:
    assert ORDER[-1] == "offloaded"
    names = [a.profile for a in best(on("A10")).alternatives]
    assert names[-1] == "gpu-offload"
    alone = [CANDIDATES["gpu-offload"]]
    here = world(on("A10"))
    found = recommend(judge_all(alone, here), here, [])
    assert any("more than 4 times the latency" in reason for reason in found.reasons)


def test_the_one_change_is_the_largest_value_that_fits() -> None:
    hardware = on("RTX 3050 4GB")
    verdict = judge(CANDIDATES["a10-bf16"], world(hardware))
    assert verdict.bucket == "one_change"
    assert verdict.change is not None
    option, value = verdict.change.split()
    assert option == "--max-total-tokens"
    assert LEAST <= int(value) < 65_536
    assert int(value) % STEP == 0
    assert verdict.reason is not None
    assert "predicted to take" in verdict.reason
    assert verdict.plan is not None
    assert verdict.plan.fits
    # 112 KiB a token of keys and values, and a largest batch of fewer tokens.
    assert verdict.saves_bytes is not None
    assert 1.05 < verdict.saves_bytes / ((65_536 - int(value)) * 112 * 1024) < 1.1
    assert not _fits("a10-bf16", hardware, int(value) + STEP)


def _fits(name: str, hardware: Hardware, tokens: int) -> bool:
    loaded, checkpoint = CANDIDATES[name].profile, CANDIDATES[name].checkpoint
    assert checkpoint is not None
    choice = engine_and_card.choose("auto", loaded.profile.hardware, hardware, HOST)
    asked = for_release(resolve(loaded, {}, {}, UserConfig()), loaded, choice.release.name)
    asked = msgspec.structs.replace(asked, flags=asked.flags | {"max-total-tokens": tokens})
    plan = make_plan(
        replace(
            inputs(),
            settings=asked,
            profile=loaded.profile,
            hardware=hardware,
            engine=engine(choice.release),
            checkpoint=checkpoint,
            choice=choice,
        )
    )
    return plan.fits


def test_a_card_that_others_fill_leaves_one_change_or_none() -> None:
    some = machine(gpus=(gpu(free=4 * GIB),))
    assert judge(CANDIDATES["t4-fp16"], world(some)).bucket == "one_change"
    none = machine(gpus=(gpu(free=1 * GIB),))
    verdict = judge(CANDIDATES["t4-fp16"], world(none))
    assert (verdict.bucket, verdict.change, verdict.plan) == ("cannot", None, None)


def test_nothing_runs_says_why() -> None:
    with pytest.raises(QlaunchError, match=r"none of the profiles runs .*riscv64") as caught:
        best(machine(arch="riscv64"))
    assert caught.value.exit_code == 4
    here = world(machine())
    with pytest.raises(QlaunchError):
        recommend([], here, [])


def test_a_python_that_no_release_installs_on_is_a_reason() -> None:
    host = Host(python=(3, 16, 0), machine="x86_64", glibc="2.39")
    verdict = judge(CANDIDATES["cpu-minilm"], world(machine(), host))
    assert verdict.bucket == "cannot"
    assert "needs Python" in str(verdict.reason)


def test_a_model_whose_sizes_nobody_knows_runs_with_a_reservation() -> None:
    unknown = Candidate(CANDIDATES["cpu-minilm"].profile, None, None)
    verdict = judge(unknown, world(machine()))
    assert (verdict.bucket, verdict.plan) == ("runs", None)
    assert "not predicted" in str(verdict.reason)


def _run(**changes: Any) -> PastRun:
    values: dict[str, Any] = {
        "run": "r1",
        "profile": "cpu-minilm",
        "release": "cpu",
        "version": release("cpu").version,
        "age_s": 3 * 86_400.0,
        "verified": True,
        "ready_s": 14.0,
        "ram_peak_bytes": 1_100_000_000,
    }
    return PastRun(**{**values, **changes})


def test_evidence_is_a_run_proved_right_with_the_same_engine() -> None:
    found = best(machine(), [_run()]).evidence
    assert found.measured
    assert found.text == (
        f"run r1, 3 days ago, SGLang {release('cpu').version}: vectors proved right"
    )
    assert (found.run, found.ready_s, found.ram_peak_bytes) == ("r1", 14.0, 1_100_000_000)


def test_a_run_of_another_checkpoint_proves_nothing() -> None:
    plan = make_plan(inputs())
    assert plan.fingerprint
    here = {"model": plan.model_name, "fingerprint": plan.fingerprint}
    assert evidence(plan, plan.profile, [_life(plan, **here)]).measured
    # A plan from a card alone has no fingerprint.
    of_card = msgspec.structs.replace(plan, fingerprint="")
    assert evidence(of_card, plan.profile, [_life(plan, **here)]).measured
    for changed, says in (
        ({"fingerprint": "another"}, "other files of the model then"),
        ({"model": "another"}, f"model another then, {plan.model_name} now"),
    ):
        found = evidence(plan, plan.profile, [_life(plan, **{**here, **changed})])
        assert not found.measured
        assert found.text.startswith(f"not measured as it would run now ({says}); run r1")


def _life(plan: Plan, **changes: Any) -> PastRun:
    return _run(
        profile=plan.profile,
        version=plan.engine.version,
        argv=plan.engine.argv,
        **changes,
    )


@pytest.mark.parametrize(
    "changes", [{"verified": False}, {"profile": "other"}], ids=["failed", "other"]
)
def test_other_runs_are_no_evidence(changes: dict[str, Any]) -> None:
    found = best(machine(), [_run(**changes)]).evidence
    assert (found.measured, found.run) == (False, None)
    assert found.text == (
        "not measured: no run on this host supports this yet: qlaunch up cpu-minilm proves it"
    )


def test_a_run_with_another_engine_is_named_as_such() -> None:
    found = best(machine(), [_run(version="0.5.14", run="old")]).evidence
    assert not found.measured
    assert found.text.startswith("not measured as it would run now (SGLang 0.5.14 then")
    assert "run old" in found.text
    both = best(machine(), [_run(version="0.5.14", run="old"), _run(run="same")]).evidence
    assert both.run == "same"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "less than a minute"), (61, "1 minute"), (7200, "2 hours"), (90_000, "1 day")],
)
def test_ages_in_words(seconds: float, said: str) -> None:
    assert age(seconds) == said


@pytest.mark.parametrize("name", CANDIDATES)
def test_every_shipped_profile_passes_every_release_it_allows(name: str) -> None:
    candidate = CANDIDATES[name]
    profile, loaded = candidate.profile.profile, candidate.profile
    allowed = engine_and_card.candidates(profile.engine, profile.hardware)
    assert allowed
    for found in allowed:
        releases = [found] + ([release(found.fallback)] if found.fallback else [])
        for one in releases:
            given = for_release(resolve(loaded, {}, {}, UserConfig()), loaded, one.name)
            flags = given.flags | engine_and_card.workarounds(one).value
            problems = flag_tables.check(render(flags), one.version)
            assert not [p.message for p in problems], (one.name, problems)


def test_every_release_named_in_a_profile_exists_and_is_allowed() -> None:
    for name, candidate in CANDIDATES.items():
        profile = candidate.profile.profile
        allowed = {r.name for r in engine_and_card.candidates(profile.engine, profile.hardware)}
        assert set(profile.flags_by_engine) <= allowed, name


def test_gpu_profiles_say_whether_they_were_run_on_a_card() -> None:
    for name, candidate in CANDIDATES.items():
        profile = candidate.profile.profile
        if profile.hardware.device == "cuda":
            words = " ".join(profile.description.split())
            ran = "docs/gpu.md" in words
            assert ran or "Not measured by us" in words, name
            assert ran or not profile.measured, name


def test_the_kinds_of_the_shipped_profiles() -> None:
    kinds = {name: kind_of(candidate) for name, candidate in CANDIDATES.items()}
    assert kinds["t4-fp16"] == kinds["h100-shared"] == "direct"
    assert kinds["gpu-fp8"] == kinds["gpu-2gb-int4"] == "quantised"
    assert kinds["offload-t4"] == "offloaded"
    assert kinds["gpu-minilm"] == "small on the GPU"
    assert kinds["cpu-qwen3-0.6b"] == "on the CPU"


@settings(deadline=None)
@example(card="H100", mib=3851, driver=None)  # where only the largest batch becomes smaller
@given(
    card=st.sampled_from(sorted(card.name for card in known_cards().values())),
    mib=st.integers(min_value=64, max_value=200_000),
    driver=st.sampled_from([None, "470", "525.60", "570.1.2", "580"]),
)
def test_any_card_gets_an_answer_that_fits_it(card: str, mib: int, driver: str | None) -> None:
    hardware = hypothetical(card, mib * MIB, machine(), driver=driver)
    here = world(hardware)
    judged = judge_all(CANDIDATES.values(), here)
    assert len(judged) == len(CANDIDATES)
    found = recommend(judged, here, [])
    if found.gpu_bytes is not None:
        assert found.gpu_bytes <= mib * MIB
    for one in judged:
        if one.verdict.bucket == "cannot":
            assert one.verdict.reason
        if one.verdict.bucket == "one_change":
            assert (one.verdict.saves_bytes or 0) > 0


@pytest.mark.parametrize(
    ("card", "driver", "said"),
    [
        ("GTX 1660", "470.57", "gtx1660-fp16: engine turing .* needs NVIDIA driver 525"),
        ("RTX 2080", "470.57", "engine turing .* needs NVIDIA driver 525"),
        ("A10", "470.57", "engine cuda12 .* needs NVIDIA driver 525"),
    ],
)
def test_a_card_that_stands_idle_is_told_why_and_not_that_it_is_ok(
    card: str, driver: str, said: str
) -> None:
    found = best(hypothetical(card, None, machine(), driver=driver))
    assert found.profile == "cpu-minilm"
    assert re.search(said, " ".join(found.reasons))
    assert "GPU: ok" not in found.reasons


@pytest.mark.parametrize(
    ("hardware", "said"),
    [
        (machine(), None),
        (status("no NVIDIA driver: libnvidia-ml.so.1 is not installed"), None),
        (status("CUDA_VISIBLE_DEVICES='' hides all 2 GPUs of this machine"), None),
        (
            status("the NVIDIA kernel driver is not loaded"),
            "the NVIDIA kernel driver is not loaded",
        ),
        (on("V100"), "no SGLang release has kernels for it"),
        (hypothetical("T4", None, machine(), driver="470.57"), "needs NVIDIA driver 525"),
        (machine(gpus=(gpu(free=0),)), "0 kB are free"),
    ],
)
def test_a_gpu_that_stands_idle_is_told_of_where_there_is_one(
    hardware: Hardware, said: str | None
) -> None:
    found = idle_gpu(judge_all(CANDIDATES.values(), world(hardware)), hardware)
    assert (found is None) if said is None else (said in (found or ""))
