"""Limits of the guard, from the checkpoint and the flags."""

from __future__ import annotations

import msgspec
import pytest

from launcher.documents.plan import Guard, Plan
from launcher.engine import command
from launcher.errors import QlaunchError
from launcher.plan import context, guard
from launcher.plan.resolve import make_plan
from tests.plan.inputs import inputs


def limits(plan: Plan) -> Guard:
    assert plan.guard is not None
    return plan.guard


def test_the_limits_are_in_the_engines_environment_and_its_folder_first() -> None:
    plan = make_plan(inputs())
    found = msgspec.json.decode(plan.engine.env[guard.VARIABLE], type=Guard)
    assert found == limits(plan)
    first = plan.engine.env["PYTHONPATH"].split(":")[0]
    assert first == str(command.GUARD)
    assert any(reason.startswith("guard: ") for reason in plan.reasons)


def test_it_stays_without_the_plugin_and_over_a_profiles_own_path() -> None:
    plan = make_plan(inputs(plugin=False, env={"PYTHONPATH": "/own"}))
    assert plan.engine.env["PYTHONPATH"] == f"{command.GUARD}:{command.STANDINS}:/own"
    assert guard.VARIABLE in plan.engine.env


def test_an_input_has_a_token_less_than_the_context() -> None:
    plan = make_plan(inputs())
    found = limits(plan)
    assert found.text_tokens == plan.expectation.context_length - 1
    given = inputs()
    assert found.vocabulary == given.checkpoint.vocab_size
    assert found.dimensions == given.checkpoint.dimensions


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "camembert"])
def test_a_roberta_uses_all_its_positions_and_no_more(kind: str) -> None:
    given = inputs()
    roberta = msgspec.structs.replace(given.checkpoint, model_type=kind, context_length=512)
    assert context.most(roberta) == 513
    for asked, flags in (
        ({}, {"context-length": 513}),
        ({"context-length": 514}, {"context-length": 513}),
        ({"context-length": 128}, {}),
    ):
        assert context.decide(asked, (), roberta).value == flags
    assert guard.text_tokens(roberta, 513) == 512
    with pytest.raises(QlaunchError, match="would end the engine") as caught:
        context.check({"context-length": 514}, roberta)
    assert caught.value.exit_code == 2
    context.check({"context-length": 513}, roberta)


def test_a_call_is_bounded_by_the_time_it_takes_on_a_cpu() -> None:
    given = inputs()
    sizes = guard.Sizes(context=512, running=64, cut=False, device="cpu")
    found = {}
    for name, more in {"small": 10e6, "0.6B": 440e6, "8B": 8e9}.items():
        table = given.checkpoint.vocab_size * given.checkpoint.hidden_size
        model = msgspec.structs.replace(given.checkpoint, parameters=table + int(more))
        found[name] = guard.make_guard(
            model, sizes, served_name="m", switches=frozenset(), reach=guard.Reach(loopback=True)
        )
    assert [each.call_tokens for each in found.values()] == [300_000, 75_000, 16_384]
    assert all(each.call_bytes == 6 * each.call_tokens for each in list(found.values())[:2])
    assert all(each.body_bytes >= each.call_bytes for each in found.values())


def test_more_inputs_than_run_at_once_may_be_asked_for() -> None:
    given = inputs()
    for running, wanted in ((64, 2048), (2048, 2056), (9000, 4096)):
        sizes = guard.Sizes(context=512, running=running, cut=False, device="cuda")
        found = guard.make_guard(
            given.checkpoint,
            sizes,
            served_name="m",
            switches=frozenset(),
            reach=guard.Reach(loopback=True),
        )
        assert found.inputs == wanted


def test_switches_of_the_engine_are_read_wherever_they_are_given() -> None:
    plan = make_plan(inputs(extra=("--enable-metrics", "--allow-auto-truncate")))
    assert limits(plan).metrics is True
    assert limits(plan).text_tokens is None
    assert limits(make_plan(inputs())).metrics is False


@pytest.mark.parametrize("word", ["--grpc-port", "--encoder-only", "--enable-lora"])
def test_another_door_is_refused(word: str) -> None:
    with pytest.raises(QlaunchError, match=word) as caught:
        guard.check_doors({}, (word, "1"), {})
    assert (caught.value.code, caught.value.exit_code) == ("unguarded", 2)
    guard.check_doors({word.removeprefix("--"): False}, (), {"SGLANG_RUST_SERVER": ""})
    with pytest.raises(QlaunchError, match="SGLANG_RUST_SERVER"):
        guard.check_doors({}, (), {"SGLANG_RUST_SERVER": "1"})


def test_what_requests_take_is_in_the_full_prediction_only() -> None:
    predicted = make_plan(inputs()).predicted
    (term,) = (term for term in predicted.terms if term.name == "requests at once")
    assert term.reserve is True
    full, ready = predicted.ram_full_bytes or 0, predicted.ram_bytes or 0
    assert full - ready >= term.bytes > 0
    assert full == sum(term.bytes for term in predicted.terms if term.device == "ram")
