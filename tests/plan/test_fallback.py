"""Fallback steps resolved with the plan, and the learned start budget."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import pytest

from launcher.argv import FlagValue
from launcher.config.loading import load_profile
from launcher.documents.plan import Plan
from launcher.errors import QlaunchError
from launcher.plan import start_budget
from launcher.plan.calibration import Observed
from launcher.plan.decision import Decision
from launcher.plan.inputs import Inputs
from launcher.plan.resolve import make_plan
from tests.plan.inputs import inputs, qwen3
from tests.samples import plan


def given(*steps: dict[str, FlagValue], **changes: Any) -> Inputs:
    bare = inputs(model=qwen3(), **changes)
    profile = msgspec.structs.replace(bare.profile, fallback=list(steps))
    return dataclasses.replace(bare, profile=profile)


def value(argv: tuple[str, ...], flag: str) -> str | None:
    return argv[argv.index(flag) + 1] if flag in argv else None


def test_each_step_is_on_top_of_those_before_it() -> None:
    plan = make_plan(
        given(
            {"max-total-tokens": 8192},
            {"max-running-requests": 8},
            {"max-total-tokens": 4096},
            flags={"max-total-tokens": 16384},
        )
    )
    assert value(plan.engine.argv, "--max-total-tokens") == "16384"
    found = [
        (value(s.argv, "--max-total-tokens"), value(s.argv, "--max-running-requests"))
        for s in plan.fallbacks
    ]
    assert found == [("8192", "32"), ("8192", "8"), ("4096", "8")]
    assert plan.fallbacks[1].expectation.max_running_requests == 8
    sizes = [s.predicted.ram_bytes or 0 for s in plan.fallbacks]
    assert sizes[0] > sizes[2]
    assert sizes[0] < (plan.predicted.ram_bytes or 0)


def test_what_the_user_set_is_never_touched() -> None:
    steps: tuple[dict[str, FlagValue], ...] = (
        {"max-total-tokens": 8192},
        {"max-total-tokens": 4096, "max-running-requests": 8},
    )
    plan = make_plan(given(*steps, extra=("--max-total-tokens", "20000")))
    assert [s.flags for s in plan.fallbacks] == [{"max-running-requests": 8}]
    assert "20000" in plan.fallbacks[0].argv
    assert "4096" not in plan.fallbacks[0].argv
    equal = make_plan(given(*steps, extra=("--max-total-tokens=20000",)))
    assert [s.flags for s in equal.fallbacks] == [{"max-running-requests": 8}]
    set_by_option = make_plan(
        given(
            *steps,
            flags={"max-total-tokens": 20000},
            sources={"flags.max-total-tokens": "command line"},
        )
    )
    assert [s.flags for s in set_by_option.fallbacks] == [{"max-running-requests": 8}]


def test_a_step_that_changes_nothing_is_no_step() -> None:
    plan = make_plan(given({"max-total-tokens": 4096}, flags={"max-total-tokens": 4096}))
    assert plan.fallbacks == ()


def test_a_step_with_an_option_that_the_engine_does_not_have_is_refused_with_the_plan() -> None:
    with pytest.raises(QlaunchError) as caught:
        make_plan(given({"max-total-tokenz": 4096}))
    assert caught.value.exit_code == 5


def test_a_refused_option_of_a_step_is_named_with_the_step_s_line() -> None:
    """`plan` gave no place, or that of the option's value in `flags`."""
    sources = {
        "flags.kv-cache-dtype": "profile /p.yaml:3",
        "flags.data-parallel-size": "profile /p.yaml:4",
        "fallback.0.max-total-tokenz": "profile /p.yaml:7",
        "fallback.0.kv-cache-dtype": "profile /p.yaml:8",
        "fallback.1.data-parallel-size": "profile /p.yaml:9",
    }
    steps: dict[int, dict[str, FlagValue]] = {
        7: {"max-total-tokenz": 1},
        8: {"kv-cache-dtype": "fp8_e4m3"},
    }
    for line, step in steps.items():
        with pytest.raises(QlaunchError) as caught:
            make_plan(given(step, flags={"kv-cache-dtype": "auto"}, sources=dict(sources)))
        assert caught.value.message.startswith(f"profile /p.yaml:{line}: --{next(iter(step))} ")
    with pytest.raises(QlaunchError, match=r"^profile /p\.yaml:9: --dp-size"):
        make_plan(given({"page-size": 1}, {"data-parallel-size": 2**40}, sources=dict(sources)))


def test_a_plan_with_steps_survives_its_file() -> None:
    plan = make_plan(given({"max-total-tokens": 4096, "disable-radix-cache": True}))
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fallback: [{}]", "fallback"),
        ("fallback: [{--max-total-tokens: 1}]", "is not an option name"),
        ("fallback: [{model-path: /x}]", "set by qlaunch itself"),
        ("fallback: {max-total-tokens: 1}", "fallback"),
    ],
)
def test_a_bad_step_in_a_profile_is_named_with_its_line(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"title: t\nhardware: {{device: cpu}}\nengine: cpu\nmodel: m\n{text}\n")
    with pytest.raises(QlaunchError) as caught:
        load_profile(str(path), tmp_path)
    assert caught.value.exit_code == 2
    assert f"{path}:5" in caught.value.message
    assert words in caught.value.message


# The learned budget ------------------------------------------------------------------------------


def run(ready_s: float | None, **changes: Any) -> Observed:
    changes["engine"] = {"version": "1", **changes.get("engine", {})}
    return Observed(plan=plan(**changes), peak_bytes=1, began="2026-01-01", ready_s=ready_s)


def learned(*runs: Observed, limit_s: float = 600.0) -> Decision[float] | None:
    return start_budget.learned(runs, fingerprint="f", version="1", device="cpu", limit_s=limit_s)


def test_nothing_is_known_without_a_run_like_this_one() -> None:
    others = (
        run(5.0, fingerprint="g"),
        run(5.0, engine={"version": "2"}),
        run(5.0, device="cuda"),
        run(None),
    )
    assert learned(*others) is None
    assert learned() is None


def test_three_times_the_slowest_of_the_last_five() -> None:
    found = learned(*(run(t) for t in (20.0, 30.0, 40.0, 21.0, 22.0, 500.0)))
    assert found is not None
    assert found.value == 120.0
    assert found.reasons == ("3 times the slowest of the last 5 starts here (40.0 s)",)


def test_a_budget_is_a_minute_at_least_and_the_limit_at_most() -> None:
    assert learned(run(2.0)) == Decision(60.0, ("3 times the last start here (2.0 s)",))
    for found, budget in ((learned(run(400.0)), 600.0), (learned(run(2.0), limit_s=30.0), 30.0)):
        assert found is not None
        assert found.value == budget


def test_the_plan_carries_the_budget_unless_the_user_said_how_long() -> None:
    bare = inputs()
    same = plan(engine={"version": bare.engine.version})
    seen = (Observed(plan=same, peak_bytes=1, began="2026-01-01", ready_s=30.0),)
    found = make_plan(dataclasses.replace(bare, observed=seen))
    assert found.start_budget_s == 90.0
    assert "30.0 s" in found.start_budget_source
    asked = inputs(sources={"start_timeout_s": "command line"})
    assert make_plan(dataclasses.replace(asked, observed=seen)).start_budget_s is None
