from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from launcher.bench import load_client
from launcher.bench.load_client import AskError, Client
from launcher.bench.target import Encoding
from tests.bench.server import WIDTH, Behaviour, Entry, serving, spoilt, vector


def ask(server: Behaviour, texts: int = 3, timeout_s: float = 20.0, **target: Any) -> int | None:
    """Tokens that the server counted."""

    async def whole() -> int | None:
        async with Client(server.target(**target), 1, timeout_s) as client:
            body = client.body([f"text {n}" for n in range(texts)])
            data, _ = await client.send(body)
            return client.check(data, texts)

    return asyncio.run(whole())


@pytest.mark.parametrize("encoding", ["base64", "float"])
@pytest.mark.parametrize("dimensions", [WIDTH, None])
def test_a_right_answer_is_counted(encoding: Encoding, dimensions: int | None) -> None:
    with serving(key="canary-1") as server:
        assert ask(server, encoding=encoding, dimensions=dimensions) == 3 * 4
        assert server.encodings == {encoding}


def test_numbers_are_taken_where_base64_was_asked_for() -> None:
    """As SGLang before 0.5.18 answers."""
    with serving(base64=False) as server:
        assert ask(server) == 3 * 4


def test_a_server_that_does_not_count_is_no_error() -> None:
    with serving(tokens=None) as server:
        assert ask(server) is None


def swapped(_number: int, data: list[Entry]) -> list[Entry]:
    return [data[1], data[0], *data[2:]]


def short(_number: int, data: list[Entry]) -> list[Entry]:
    return data[:-1]


def replaced(value: Any) -> Callable[[int, list[Entry]], list[Entry]]:
    def edit(_number: int, data: list[Entry]) -> list[Entry]:
        data[-1]["embedding"] = value
        return data

    return edit


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (spoilt(math.nan), "vector 2 holds a number that is not finite"),
        (spoilt(-math.inf), "vector 2 holds a number that is not finite"),
        (spoilt(0.5, WIDTH - 1), f"vector 2 has 7 numbers instead of {WIDTH}"),
        (spoilt(0.5, 0), "vector 2 has 0 numbers"),
        (short, "2 vectors came back for 3 texts"),
        (swapped, "out of order: index 1 at place 0"),
        (replaced("AAA"), "vector 2 is not base64 of whole numbers"),
        (replaced("AA=="), "vector 2 is not base64 of whole numbers"),
        (replaced("é"), "vector 2 is not base64 of whole numbers"),
        (replaced(None), "not an embedding response"),
        (replaced([0.5, None]), "not an embedding response"),
    ],
)
def test_a_wrong_vector_is_an_error_in_words(
    edit: Callable[[int, list[Entry]], list[Entry]], says: str
) -> None:
    with serving(edit=edit) as server, pytest.raises(AskError, match=says):
        ask(server)


def test_opposite_infinities_do_not_hide_each_other() -> None:
    both = vector(width=WIDTH, as_base64=False)
    both[0], both[1] = 3e38, -3e38
    with serving(edit=replaced(both)) as server:
        assert ask(server) == 12  # large, and finite
    import base64
    import struct

    numbers = [math.inf, -math.inf, *[0.0] * (WIDTH - 2)]
    packed = base64.b64encode(struct.pack(f"<{WIDTH}f", *numbers)).decode()
    with serving(edit=replaced(packed)) as server, pytest.raises(AskError, match="not finite"):
        ask(server)


def test_sums_that_overflow_are_no_error() -> None:
    """Numbers in decimal may be larger than float32 has them."""
    with serving(edit=replaced([1.7e308] * WIDTH)) as server:
        assert ask(server) == 12


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"{}",
        b"[" * 5000,
        b'{"data": [{"index": 0}]}',
        b'{"data": [{"index": 0, "embedding": "\xff"}]}',
    ],
)
def test_what_is_no_embedding_response_is_an_error_in_words(body: bytes) -> None:
    with (
        serving(body=lambda _n: body or b" ") as server,
        pytest.raises(AskError, match="not an embedding response"),
    ):
        ask(server)


def test_an_http_error_that_is_no_utf8_is_quoted() -> None:
    assert load_client._message(b'{"message": "caf\xe9"}') == '{"message": "caf\ufffd"}'


def test_an_http_error_is_quoted_without_the_key() -> None:
    with serving(key="canary-1") as server:
        with pytest.raises(AskError, match=r"^HTTP 401: not canary-1$"):
            ask(server, key=None)
        server.key = "canary-12"
        with pytest.raises(AskError) as found:
            ask(server, key="canary-1")
        assert str(found.value) == "HTTP 401: not ***2"
    with (
        serving(status=lambda _n: 503) as server,
        pytest.raises(AskError, match="HTTP 503: too much"),
    ):
        ask(server)


def test_a_connection_that_breaks_off_is_an_error_in_words() -> None:
    with (
        serving(drop=lambda _n: True) as server,
        pytest.raises(AskError, match="the connection broke off: "),
    ):
        ask(server)


def test_no_connection_is_told_from_other_errors() -> None:
    with serving() as server:
        pass
    with pytest.raises(AskError, match=r"cannot connect to http://127\.0\.0\.1") as found:
        ask(server)
    assert found.value.refused


def test_an_answer_that_does_not_come_is_given_up() -> None:
    with (
        serving(seconds=lambda _n: 0.6) as server,
        pytest.raises(AskError, match=r"no whole answer within 0\.2 s"),
    ):
        ask(server, timeout_s=0.2)


def test_the_body_is_what_the_openai_client_sends() -> None:
    with serving() as server:
        client = Client(server.target(), 1, 1.0)
    assert json.loads(client.body(["one", 'tw"o é'])) == {
        "model": "m",
        "input": ["one", 'tw"o é'],
        "encoding_format": "base64",
    }
