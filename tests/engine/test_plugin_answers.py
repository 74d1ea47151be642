"""A header of each answer tells the tokens of each input, where SGLang knows them all."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.engine import command

if str(command.PLUGIN) not in sys.path:
    sys.path.append(str(command.PLUGIN))

from qlaunch_sglang import answers


def item(tokens: Any) -> dict[str, Any]:
    return {"embedding": [1.0], "meta_info": {"prompt_tokens": tokens}}


def response_to(*args: Any) -> Any:
    """What becomes of a response of the kind that `written` makes, for these items."""
    response = SimpleNamespace(headers={})
    assert answers._around(lambda *_: response, "serving", *args) is response
    return response


def test_the_tokens_of_each_input_are_told_in_order() -> None:
    assert response_to([item(3), item(17), item(5)], "base64").headers == {
        "X-Qlaunch-Tokens": "3,17,5"
    }


@pytest.mark.parametrize(
    "made",
    [
        [],
        [item(3), {"embedding": [1.0]}],
        [item(3), {"embedding": [1.0], "meta_info": {}}],
        [item(3), item(None)],
        [item(3), item(True)],
        [item(3)] * 65,
        {"a": 1},
        None,
    ],
)
def test_where_one_is_not_known_none_is_told(made: Any) -> None:
    assert response_to(made).headers == {}


def test_the_model_has_the_name_that_it_is_served_under() -> None:
    """SGLang said where the checkpoint lies on its machine."""
    serving = SimpleNamespace(tokenizer_manager=SimpleNamespace(served_model_name="tiny"))
    response = SimpleNamespace(model="/srv/models/tiny", headers={})
    assert answers._around(lambda *_: response, serving, [item(3)]).model == "tiny"
    other = SimpleNamespace(model="/srv/models/tiny", headers={})
    assert answers.named(other, SimpleNamespace()).model == "/srv/models/tiny"


def test_what_is_no_response_is_left_alone() -> None:
    answer = object()
    assert answers._around(lambda *_: answer, "serving", [item(3)]) is answer
