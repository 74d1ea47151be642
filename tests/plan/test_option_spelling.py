"""However an option is written, it is checked and counted as what the engine reads of it."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from launcher.argv import FlagValue
from launcher.documents.plan import Plan
from launcher.engine.options.flags import Option, table
from launcher.engine.options.spelling import spelled, spelled_words
from launcher.errors import QlaunchError
from launcher.plan.inputs import Inputs
from launcher.plan.resolve import make_plan
from tests.plan.inputs import inputs

SPELLINGS: list[tuple[str, FlagValue, str, FlagValue]] = [
    ("max-running-requests", "256", "max-running-requests", 256),
    ("max-total-tokens", "4k", "max-total-tokens", 4000),
    ("max-total-tokens", "4Ki", "max-total-tokens", 4096),
    ("max-total-tokens", "25.6k", "max-total-tokens", 25600),
    ("max-total-tokens", ["4096"], "max-total-tokens", 4096),
    ("context-length", "128", "context-length", 128),
    ("data-parallel-size", 2, "dp-size", 2),
    ("tokenizer-worker-num", "2", "tokenizer-worker-num", 2),
]


def words(name: str, value: FlagValue) -> tuple[str, ...]:
    return (f"--{name}", str(value[0] if isinstance(value, list) else value))


def told(plan: Plan) -> tuple[object, ...]:
    return plan.predicted, plan.expectation, plan.engine.argv, plan.fits


@pytest.mark.parametrize(("name", "value", "main", "number"), SPELLINGS)
def test_memory_is_predicted_of_the_number_that_the_engine_reads(
    name: str, value: FlagValue, main: str, number: FlagValue
) -> None:
    """Quoted, with a unit, as a list of one or under its other name a number was passed on, and
    the memory predicted for the engine's default."""
    wanted = make_plan(inputs(flags={main: number}))
    assert told(make_plan(inputs(flags={name: value}))) == told(wanted)
    after = make_plan(inputs(extra=words(main, number)))
    assert told(make_plan(inputs(extra=words(name, value)))) == told(after)
    joined = (f"{words(name, value)[0]}={words(name, value)[1]}",)
    assert make_plan(inputs(extra=joined)).predicted == after.predicted


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("max-total-tokens", "30", "--max-total-tokens 30: 32 is the least"),
        ("context-length", "10", "--context-length 10: 31 is the least"),
        ("max-running-requests", ["0"], "--max-running-requests 0: 1 is the least"),
        ("tensor-parallel-size", 2, "--tp-size 2: on a CPU an engine computes a whole model"),
        ("pipeline-parallel-size", "2", "--pp-size 2: on a CPU"),
    ],
)
def test_no_spelling_goes_round_a_check(name: str, value: FlagValue, said: str) -> None:
    for given in (inputs(flags={name: value}), inputs(extra=words(name, value))):
        with pytest.raises(QlaunchError, match=said):
            make_plan(given)


def test_the_command_line_goes_before_the_profile_under_either_name() -> None:
    plan = make_plan(inputs(flags={"dp-size": 3}, extra=("--data-parallel-size", "2")))
    assert plan.engine.argv[-2:] == ("--dp-size", "2")
    assert "3" not in plan.engine.argv


def test_one_option_under_both_names_is_still_refused() -> None:
    with pytest.raises(QlaunchError, match="is given twice"):
        make_plan(inputs(flags={"dp-size": 2, "data-parallel-size": 2}))


def test_a_fallback_step_may_use_the_other_name() -> None:
    given = inputs(flags={"dp-size": 2})
    profile = msgspec.structs.replace(given.profile, fallback=[{"data-parallel-size": "1"}])
    (step,) = make_plan(dataclasses.replace(given, profile=profile)).fallbacks
    assert step.flags == {"dp-size": 1}


def test_what_the_engine_will_not_take_is_left_for_its_table() -> None:
    known = known_options("0.5.23")
    given: dict[str, FlagValue] = {
        "max-total-tokens": "many",
        "max-running-requests": ["1", "2"],
        "nonesuch": "7",
        "disable-radix-cache": "true",
    }
    assert spelled(given, known) == (given, {})
    loose = ("stray", "--nonesuch", "7", "--max-total-tokens", "--page-size", "1", "2", "--x=5")
    assert spelled_words(loose, known) == loose


@pytest.mark.parametrize("release", ["0.5.1.post2", "0.5.23"])
def test_options_have_one_name_over_the_releases(release: str) -> None:
    """`--tp-size` is the other name in old releases, and the main one in new ones."""
    known = known_options(release)
    for name in ("tp-size", "tensor-parallel-size"):
        assert spelled({name: 2}, known)[0] == {"tp-size": 2}


def known_options(release: str) -> dict[str, Option]:
    found = table(release)
    assert found is not None
    return found.index()


def written(source: str) -> Inputs:
    given = inputs(flags={"nonesuch": 5, "max-total-tokens": 4})
    sources = {"flags.nonesuch": source, "flags.max-total-tokens": source}
    settings = msgspec.structs.replace(given.settings, sources=sources)
    return dataclasses.replace(given, settings=settings)


def test_a_refused_option_names_the_file_and_the_line_that_say_it() -> None:
    """`plan` named the option alone; only `profiles validate` said where it stands."""
    with pytest.raises(QlaunchError) as caught:
        make_plan(written("profile /p/mine.yaml:7"))
    assert caught.value.message.startswith("profile /p/mine.yaml:7: --max-total-tokens 4: 32 is")
    with pytest.raises(QlaunchError) as caught:
        make_plan(written("command line"))
    assert caught.value.message.startswith("--max-total-tokens 4: 32 is")


def test_an_address_without_a_key_names_the_file_and_the_line_that_say_it() -> None:
    given = inputs()
    settings = msgspec.structs.replace(
        given.settings, host="0.0.0.0", sources={"host": "profile /p/mine.yaml:2"}
    )
    with pytest.raises(QlaunchError) as caught:
        make_plan(dataclasses.replace(given, settings=settings))
    assert caught.value.code == "unauthenticated_bind"
    assert caught.value.message.startswith("profile /p/mine.yaml:2: 0.0.0.0 can be reached")
