"""What a plan takes from the model card: the facts vectors are held to, and cut vectors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from launcher.model.cards import load_card
from launcher.model.checkpoint import ModelCard
from launcher.plan.resolve import make_plan
from tests.plan.inputs import checkpoint, inputs, qwen3

SMALL = {"max-total-tokens": 16384, "max-running-requests": 64}
OPTION = "--json-model-override-args"


def card(name: str = "qwen3-embedding-0.6b") -> ModelCard:
    return load_card(name, None)


def test_the_facts_of_the_card_and_where_the_files_say_theirs() -> None:
    expected = make_plan(inputs(card=card("all-minilm-l6-v2"))).expectation
    assert expected.card is not None
    assert expected.card.name == "all-minilm-l6-v2"
    assert expected.card.file.endswith("profiles/models/all-minilm-l6-v2.yaml")
    assert (expected.card.pooling, expected.card.normalize) == ("mean", True)
    assert expected.card.dimensions == 384
    assert expected.card.instruction is None
    assert not expected.card.matryoshka
    assert expected.pooling_source == checkpoint().pooling_source
    assert expected.normalize_source == checkpoint().normalize_source


def test_a_model_without_a_card_has_none() -> None:
    assert make_plan(inputs()).expectation.card is None


def qwen(**changes: Any) -> Any:
    return make_plan(inputs(model=qwen3(), card=card(), flags=dict(SMALL), **changes))


def test_a_model_that_may_be_cut_is_started_so_that_it_may() -> None:
    plan = qwen()
    assert plan.expectation.card.matryoshka
    assert plan.expectation.card.end_token == "<|endoftext|>"
    assert "{query}" in plan.expectation.card.instruction
    at = plan.engine.argv.index(OPTION)
    assert json.loads(plan.engine.argv[at + 1]) == {"is_matryoshka": True}


def test_an_engine_too_old_to_cut_is_not_asked_to() -> None:
    """SGLang before 0.5.6 has no such thing; the long suite then expects none."""
    from tests.samples import gpu, machine

    plan = qwen(release="turing", hardware=machine(gpus=(gpu(capability=(7, 5)),)))
    assert OPTION not in plan.engine.argv
    assert not plan.expectation.card.matryoshka


@pytest.mark.parametrize("extra", [(OPTION, "{}"), (f"{OPTION}={{}}",)])
def test_the_users_own_override_wins(extra: tuple[str, ...]) -> None:
    argv = qwen(extra=extra).engine.argv
    assert sum(word.partition("=")[0] == OPTION for word in argv) == 1


def test_a_model_whose_card_is_silent_is_left_alone() -> None:
    plan = make_plan(inputs(card=card("all-minilm-l6-v2")))
    assert OPTION not in plan.engine.argv
