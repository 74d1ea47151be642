"""What the guard lets through of a body of /v1/embeddings, and what it says of the rest."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from tests.engine.guarding import Service, tokens

REFUSED: dict[str, tuple[object, int, str]] = {
    "no JSON": (b"{", 400, "not valid JSON"),
    "nothing": (b"", 400, "not valid JSON"),
    "two documents": (b'{"input":"a"} {}', 400, "not valid JSON"),
    "a byte order mark": (b'\xef\xbb\xbf{"input":"a"}', 400, "not valid JSON"),
    "UTF-16": ('{"input":"a"}'.encode("utf-16"), 400, "not valid JSON"),
    "not UTF-8": (b'{"input":"\xff"}', 400, "not valid JSON"),
    "half a surrogate pair": (b'{"input":"\\ud800"}', 400, "not valid JSON"),
    "NaN": (b'{"input":[NaN]}', 400, "not valid JSON"),
    "a number beyond floats": (b'{"input":[1e400]}', 400, "not valid JSON"),
    "deep": (b'{"input":' + b"[" * 4000 + b"]" * 4000 + b"}", 400, "nested too deeply"),
    "deeper": (b'{"input":' + b"[" * 19000 + b"]" * 19000 + b"}", 400, "nested too deeply"),
    "a list": ([{"input": "a"}], 400, "must be a JSON object"),
    "no input": ({"model": "tiny"}, 400, "input is missing"),
    "null": ({"input": None}, 400, "input must be"),
    "a number": ({"input": 1}, 400, "input must be"),
    "true": ({"input": True}, 400, "input must be"),
    "an object": ({"input": {"text": "a"}}, 400, "input must be"),
    "an empty text": ({"input": ""}, 400, "cannot be empty"),
    "a blank text": ({"input": " \t\n\u3000"}, 400, "cannot be empty"),
    "an empty text in a list": ({"input": ["a", ""]}, 400, "input[1] cannot be empty"),
    "no inputs": ({"input": []}, 400, "cannot be empty"),
    "no ids": ({"input": [[]]}, 400, "input[0] holds no token id"),
    "no ids beside some": ({"input": [[1], []]}, 400, "input[1] holds no token id"),
    "booleans": ({"input": [True, False]}, 400, "input[0] is neither"),
    "a boolean among ids": ({"input": [1, True]}, 400, "input[1] is neither"),
    "nested booleans": ({"input": [[1], [True]]}, 400, "input[1] must hold token ids only"),
    "a float": ({"input": [1.5]}, 400, "input[0] is neither"),
    "a nested float": ({"input": [[1], [1.5]]}, 400, "input[1] must hold token ids only"),
    "lists within lists": (b'{"input":' + b"[" * 900 + b"]" * 900 + b"}", 400, "input[0] must"),
    "a null in a list": ({"input": ["a", None]}, 400, "input[1] is neither"),
    "an image": ({"input": [{"image": "x"}]}, 400, "input[0] is neither"),
    "texts and ids": ({"input": ["a", 1]}, 400, "texts only"),
    "ids and lists": ({"input": [1, [1]]}, 400, "texts only"),
    "lists of texts": ({"input": [["a"]]}, 400, "input[0] must hold token ids only"),
    "three levels": ({"input": [[[1]]]}, 400, "input[0] must hold token ids only"),
    "an id beyond the table": ({"input": [1, 100]}, 400, "0 to 99"),
    "a negative id": ({"input": [[1], [1, -5]]}, 400, "input[1] holds a token id outside"),
    "a huge id": (b'{"input":[99999999999999999999999999]}', 400, "outside"),
    "one id too many": ({"input": [1] * 11}, 400, "has 11 tokens, and this service takes 10"),
    "one nested id too many": ({"input": [[1], [1] * 11]}, 400, "input[1] has 11 tokens"),
    "one input too many": ({"input": ["a"] * 9}, 400, "8 inputs at most, not 9"),
    "ids of a call": ({"input": [[1] * 10] * 6}, 400, "50 token ids at most, not 60"),
    "a long text": ({"input": "a" * 1001}, 400, "longer than 1000 bytes"),
    "a long text in Chinese": ({"input": "字" * 334}, 400, "longer than 1000 bytes"),
    "texts of a call": ({"input": ["a" * 1000] * 8}, 400, "7000 bytes of text at most"),
    "texts of a call in Chinese": ({"input": ["字" * 300] * 8}, 400, "7000 bytes of text"),
    "a body too large": ({"input": "a" * 50_000}, 413, "larger than 40000 bytes"),
    "many values": ({"input": [1] * 12_000}, 400, "too many values"),
    "another model": ({"input": "a", "model": "gpt"}, 404, "has 'tiny'"),
    "an adapter": ({"input": "a", "model": "tiny:lora"}, 404, "has 'tiny'"),
    "no model's name": ({"input": "a", "model": ""}, 404, "has 'tiny'"),
    "a model that is no text": ({"input": "a", "model": 1}, 400, "model must be"),
    "a form": ({"input": "a", "encoding_format": "int8"}, 400, "'float' or 'base64'"),
    "a form that is no text": ({"input": "a", "encoding_format": ["float"]}, 400, "'float'"),
    "a user": ({"input": "a", "user": 1}, 400, "user must be a string"),
    "fewer dimensions": ({"input": "a", "dimensions": 2}, 400, "cannot be cut"),
    "no dimensions": ({"input": "a", "dimensions": 0}, 400, "from 1 to 4"),
    "more dimensions": ({"input": "a", "dimensions": 5}, 400, "from 1 to 4"),
    "dimensions by half": ({"input": "a", "dimensions": 2.5}, 400, "from 1 to 4"),
    "true dimensions": ({"input": "a", "dimensions": True}, 400, "from 1 to 4"),
    **{
        f"the field {name}": ({"input": "a", name: value}, 400, f"'{name}' is not a field")
        for name, value in {
            "rid": ["x"],
            "lora_path": "x",
            "priority": 1,
            "embed_overrides": [[[0.1]]],
            "embed_override_token_id": 5,
            "bootstrap_host": "h",
            "image_data": "x",
            "truncate_prompt_tokens": 5,
        }.items()
    },
}

ANSWERED: dict[str, tuple[object, dict[str, Any]]] = {
    "a text": ({"input": "a"}, {"input": "a"}),
    "a text and its model": ({"input": "a", "model": "tiny"}, {"input": "a"}),
    "texts": ({"input": ["a", "b"]}, {"input": ["a", "b"]}),
    "ids": ({"input": [0, 99]}, {"input": [0, 99]}),
    "lists of ids": ({"input": [[1], [2, 3]]}, {"input": [[1], [2, 3]]}),
    "ids with a point": (b'{"input":[1.0,-0.0]}', {"input": [1, 0]}),
    "lists of such": (b'{"input":[[1.0],[2,3e1]]}', {"input": [[1], [2, 30]]}),
    "dimensions with a point": (b'{"input":"a","dimensions":4.0}', {"input": "a"}),
    "as many ids as fit": ({"input": [1] * 10}, {"input": [1] * 10}),
    "as many inputs as fit": ({"input": ["a"] * 8}, {"input": ["a"] * 8}),
    "the longest text": ({"input": "a" * 1000}, {"input": "a" * 1000}),
    "the longest text in Chinese": ({"input": "字" * 333}, {"input": "字" * 333}),
    "brackets in texts": ({"input": ["[{," * 290] * 8}, {"input": ["[{," * 290] * 8}),
    "a zero byte": ({"input": "a\0b"}, {"input": "a\0b"}),
    "a whole pair of surrogates": (b'{"input":"\\ud83d\\ude00"}', {"input": "😀"}),
    "the last of two": (b'{"input":"a","input":"b"}', {"input": "b"}),
    "base64": (
        {"input": "a", "encoding_format": "base64"},
        {"input": "a", "encoding_format": "base64"},
    ),
    "all dimensions": ({"input": "a", "dimensions": 4}, {"input": "a"}),
    "a user": ({"input": "a", "user": "me"}, {"input": "a"}),
    "fields left empty": (
        {"input": "a", "dimensions": None, "user": None, "rid": None, "encoding_format": None},
        {"input": "a"},
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_sentence(case: str) -> None:
    document, status, words = REFUSED[case]
    service = Service()
    said = service.embed(document)
    assert said.status == status
    assert words in said.error["message"]
    assert said.passed is None, "the engine saw it"
    assert said.headers["x-qlaunch-guard"] == "1"
    assert service.guard.calls == service.guard.bytes == service.guard.inputs == 0


@pytest.mark.parametrize("case", ANSWERED)
def test_passed_on_as_it_was_checked(case: str) -> None:
    document, passed = ANSWERED[case]
    said = Service().embed(document)
    assert said.status == 200, said.body
    assert json.loads(said.given) == {"model": "tiny", **passed}
    assert said.passed is not None
    lengths = [value for name, value in said.passed["headers"] if name == b"content-length"]
    assert lengths == [str(len(said.given)).encode()]


def test_a_string_without_an_end_is_read_once() -> None:
    """The scan began anew at each escaped quote: 48 kB took ten seconds, a whole body for ever."""
    raw = b'{"input":"' + b'\\",' * 500_000
    said = Service(body_bytes=4_000_000, open_bytes=4_000_000).embed(raw)
    assert (said.status, said.error["code"]) == (400, "bad_json")


def test_vectors_are_cut_where_the_model_allows_it() -> None:
    said = Service(cut=True).embed({"input": "a", "dimensions": 2})
    assert json.loads(said.given) == {"model": "tiny", "input": "a", "dimensions": 2}


def test_inputs_that_the_engine_cuts_may_be_of_any_length() -> None:
    assert Service(text_tokens=None).embed({"input": [1] * 50}).status == 200


class TestTokensOfATextWithoutARow:
    """transformers#1730: tokens were added to the tokenizer, and the model was not resized."""

    @pytest.fixture
    def manager(self) -> Any:
        class TokenizerManager:
            def __init__(self) -> None:
                self.seen: list[Any] = []

            def _validate_one_request(self, obj: object, input_ids: list[int] | None) -> None:
                self.seen.append(input_ids)

        tokens.bound(TokenizerManager, 100)
        return TokenizerManager()

    @pytest.mark.parametrize("ids", [[0, 99], None])
    def test_texts_within_the_table_are_validated_as_before(
        self, manager: Any, ids: list[int] | None
    ) -> None:
        manager._validate_one_request(object(), ids)
        assert manager.seen == [ids]

    def test_a_token_beyond_it_is_refused(self, manager: Any) -> None:
        with pytest.raises(ValueError, match="token of id 100, and the model has vectors for ids"):
            manager._validate_one_request(object(), [1, 100, 2])
        assert manager.seen == []

    def test_one_text_of_several_is_named(self, manager: Any) -> None:
        """By the number that the plugin's slices give it (qlaunch_sglang/call_slices.py)."""
        asked = SimpleNamespace(**{tokens.NUMBER: 70})
        with pytest.raises(ValueError, match=r"^input\[70\]: the text holds nothing"):
            manager._validate_one_request(asked, [])
        with pytest.raises(ValueError, match=r"^the text holds nothing"):
            manager._validate_one_request(SimpleNamespace(), [])

    def test_a_text_of_no_token_is_refused(self, manager: Any) -> None:
        """An empty list of ids ends the scheduler, whoever made it."""
        with pytest.raises(ValueError, match="the text holds nothing that this model's tokenizer"):
            manager._validate_one_request(object(), [])
        assert manager.seen == []
