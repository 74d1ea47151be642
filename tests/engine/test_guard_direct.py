"""The guard's short way to SGLang's handler: when it is taken, and who converts a request.

What it answers is held against FastAPI's way in tests/engine_real/test_inside.py.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from tests.engine.guarding import Service, direct


async def _nothing(*_words: Any) -> None:
    raise AssertionError


READY: dict[str, Any] = {
    "server_args": SimpleNamespace(api_key="k"),
    "state": SimpleNamespace(openai_serving_embedding=object()),
}
"""An application that has its handler, and says how it was started."""


def short_way(app: Any) -> bool:
    taken: bool = asyncio.run(direct.answer(app, b"{}", {}, _nothing, _nothing))
    return taken


@pytest.mark.parametrize(
    "changed",
    [
        {"state": SimpleNamespace()},
        {"state": None},
        {"server_args": None},
        {"server_args": SimpleNamespace(admin_api_key="a")},
    ],
    ids=str,
)
def test_where_sglangs_middleware_has_something_to_do_calls_go_the_whole_way(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    protocol = SimpleNamespace(EmbeddingRequest=None)  # asked for its fields only where it is taken
    monkeypatch.setitem(sys.modules, direct._PROTOCOL, protocol)
    assert not short_way(SimpleNamespace(application=SimpleNamespace(**{**READY, **changed})))
    assert direct._handler(SimpleNamespace(**READY)) is READY["state"].openai_serving_embedding


def test_before_sglangs_own_types_are_imported_there_is_no_short_way() -> None:
    assert not short_way(SimpleNamespace(application=SimpleNamespace(**READY)))
    assert not short_way(_nothing)


def asked(monkeypatch: pytest.MonkeyPatch, *, short: bool, **limits: Any) -> tuple[Any, list[Any]]:
    """A call to a guard whose short way is open or not: its answer, and what that way was given."""
    given: list[Any] = []

    async def answer(_app: Any, body: bytes, scope: Any, _receive: Any, send: Any) -> bool:
        given.append((body, scope["query_string"]))
        if short:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"short"})
        return short

    monkeypatch.setattr(direct, "answer", answer)
    return Service(**limits).embed({"input": "a", "user": "me"}, query_string=b"x=1"), given


def test_a_checked_call_goes_the_short_way_and_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    said, given = asked(monkeypatch, short=True)
    assert (said.status, said.body, said.passed) == (200, b"short", None)
    assert said.headers["x-qlaunch-guard"] == "1"
    assert given == [(b'{"model":"tiny","input":"a"}', b"")]


def test_where_the_short_way_is_closed_the_call_goes_the_whole_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said, given = asked(monkeypatch, short=False)
    assert (said.status, said.body) == (200, b"{}")
    assert said.given == given[0][0]


def test_calls_that_sglang_counts_in_its_middleware_go_the_whole_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said, given = asked(monkeypatch, short=True, metrics=True)
    assert (said.status, said.body, given) == (200, b"{}", [])


class Serving:
    """Functions as SGLang's handler has them done by the loop's executor."""

    def _convert_to_internal_request(self, fails: bool) -> threading.Thread:
        if fails:
            raise ValueError("no such prompt")
        return threading.current_thread()

    def render(self) -> threading.Thread:
        return threading.current_thread()


def test_conversions_are_done_at_once_and_all_else_by_a_thread() -> None:
    async def run() -> None:
        loop, here = asyncio.get_running_loop(), threading.current_thread()
        direct._convert_here()
        direct._convert_here()
        serving = Serving()
        converted = serving._convert_to_internal_request
        assert await loop.run_in_executor(None, converted, False) is here
        with pytest.raises(ValueError, match="no such prompt"):
            await loop.run_in_executor(None, converted, True)
        assert await loop.run_in_executor(None, serving.render) is not here

    asyncio.run(run())
