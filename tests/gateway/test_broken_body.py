"""A body that is no JSON is told what is wrong with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.gateway.problems import RequestError
from launcher.gateway.request import read_call

SAID = {
    b"": "is empty",
    b" \n": "is empty",
    b"[]": "must be a JSON object",
    b"null": "must be a JSON object",
    b'{"model":"m","input":[NaN]}': "holds NaN",
    b'{"model":"NaN","input":-Infinity}': "holds Infinity",
    b'{"model":"m","input":"NaN",}': "trailing comma in object (byte 27)",
    b'\xef\xbb\xbf{"model":"m","input":"a"}': "begins with a byte order mark",
    '{"model":"m","input":"a"}'.encode("utf-16"): "begins with a byte order mark",
    b'{"model":"m","input":"caf\xe9"}': "is not UTF-8: byte 25 begins",
    b'{"model":"m","input":["a","caf\xe9"]}': "is not UTF-8: byte 30 begins",
    b'{"model":"caf\xe9","input":"a"}': "is not UTF-8",
    b'{"model":"m","input":"a","more":"caf\xe9"}': "is not UTF-8",
    b"\xff": "is not UTF-8: byte 0",
    b'{"model":"m","input":"\\ud83d"}': "half of a surrogate pair",
    b'{"model":"m","input":"\\ud83d\\u0041"}': "half of a surrogate pair",
    b'{"model":"m","input":"\\ude00"}': "half of a surrogate pair",
    b'{"model":"m","input":"\\\\ud83d"': "ends too early",
    b'{"model":"m","input":"\\ud83d\\ude00"': "ends too early",
    b'{"model":"m","input":[1e400]}': "a number of the body is too large",
    b'{"model":"m","input":"a","more":[1e400]}': "a number of the body is too large",
    b'{"model":"m","input":' + b"[" * 5000 + b"]" * 5000 + b"}": "nested too deeply",
    b'{"model":"m"} {}': "trailing characters",
    b'{"' + b'\\",' * 100_000: "ends too early",
}


@pytest.mark.parametrize("body", SAID, ids=SAID.values())
def test_it_says_what_is_wrong(body: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        read_call(body, most_inputs=8)
    assert (caught.value.status, caught.value.code) == (400, "bad_json")
    assert SAID[body] in caught.value.message


@given(text=st.text("abcdefgh", min_size=4, max_size=9))
def test_it_quotes_nothing_of_the_body(text: str) -> None:
    for body in (f'{{"{text}"}}', f'{{"x":{text}}}', f'{{"x":"{text}', f"{text}"):
        with pytest.raises(RequestError) as caught:
            read_call(body.encode(), most_inputs=8)
        assert text not in caught.value.message
