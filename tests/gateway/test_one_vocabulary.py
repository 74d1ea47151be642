"""The same request at a service's engine and at its gateway: one status, type, code and param."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from launcher.gateway.access import OneKey
from launcher.gateway.server import ServerSettings
from tests.engine.guarding import Service
from tests.gateway.harness import Bench, Memory, run
from tests.gateway.scripted_server import ScriptedServer
from tests.patience import PATIENCE_S

KEY = "the-service-key"
MOST = {"inputs": 8, "body_bytes": 40_000, "body_seconds": PATIENCE_S}
SETTINGS = ServerSettings(
    most_inputs=8,
    most_bytes=40_000,
    body_s=PATIENCE_S,
    host_names=frozenset(),
    origins=frozenset({"https://good.example"}),
)


def call(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "input": "a", **fields}).encode()


BODIES: dict[str, bytes] = {
    "right": call(),
    "no model": b'{"input":"a"}',
    "a null for a model": call(model=None),
    "ids with a point": b'{"model":"m","input":[1.0,2]}',
    "all dimensions, with a point": b'{"model":"m","input":"a","dimensions":16.0}',
    "nulls": call(user=None, dimensions=None, encoding_format=None, more=None),
    "nothing": b"",
    "no end": b'{"model":"m"',
    "a list": b"[]",
    "a null": b"null",
    "a byte order mark": b"\xef\xbb\xbf" + call(),
    "NaN": b'{"model":"m","input":[NaN]}',
    "Latin-1": b'{"model":"m","input":"\xe9"}',
    "Latin-1 for a user": b'{"model":"m","input":"a","user":"\xe9"}',
    "Latin-1 elsewhere": b'{"model":"m","input":"a","more":"\xe9"}',
    "half a pair": b'{"model":"m","input":"\\ud800"}',
    "a number beyond floats": b'{"model":"m","input":[1e400]}',
    "dimensions beyond floats": call().replace(b"}", b',"dimensions":1e400}'),
    "deep": b'{"model":"m","input":' + b"[" * 4000 + b"]" * 4000 + b"}",
    "deep, and beyond what is read at once": (
        b'{"model":"m","input":' + b"[" * 15_000 + b"]" * 15_000 + b"}"
    ),
    "deep elsewhere, and beyond that": b'{"model":"m","more":' + b'{"a":' * 6000 + b"1",
    "many values without an end": b'{"model":"m","input":[' + b"[1]," * 6000,
    "another model": call(model="gpt"),
    "an empty name": call(model=""),
    "a number for a model": call(model=1),
    "a form": call(encoding_format="int8"),
    "a number for a form": call(encoding_format=1),
    "a user": call(user=1),
    "a list for a user": call(user=["me"]),
    "no dimensions": call(dimensions=0),
    "too many dimensions": call(dimensions=17),
    "half a dimension": call(dimensions=2.5),
    "a text for dimensions": call(dimensions="8"),
    "true dimensions": call(dimensions=True),
    "fewer dimensions": call(dimensions=8),
    "a field": call(rid="x"),
    "what RAGFlow sends to every server": call(drop_params=True),
    "the same, off": call(drop_params=False),
    "the same, a text": call(drop_params="yes"),
    "the same and another field": call(drop_params=True, rid="x"),
    "no input": b'{"model":"m"}',
    "a null for an input": call(input=None),
    "an object": call(input={"text": "a"}),
    "no inputs": call(input=[]),
    "an empty text": call(input=""),
    "a blank text among others": call(input=["a", " \n"]),
    "no ids": call(input=[[]]),
    "a boolean": call(input=[True]),
    "texts and ids": call(input=["a", 1]),
    "lists of texts": call(input=[["a"]]),
    "half an id": call(input=[1.5]),
    "an id beyond the table": call(input=[100]),
    "a negative id": call(input=[[1], [-5]]),
    "a huge id": call(input=[10**30]),
    "too many inputs": call(input=["a"] * 9),
    "too many lists": call(input=[[1]] * 9),
    "too many values": call(input=[[1]] * 6000),
    "too many ids": call(input=[1] * 11),
    "a long text": call(input="a" * 1001),
    "a long body": call(input="a" * 50_000),
}
EMBEDDINGS = ("POST", "/v1/embeddings")
ASKED: dict[str, tuple[str, str, dict[str, str], bytes]] = {
    **{name: (*EMBEDDINGS, {}, body) for name, body in BODIES.items()},
    "without a key": (*EMBEDDINGS, {"Authorization": ""}, call()),
    "a wrong key": (*EMBEDDINGS, {"Authorization": "Bearer another"}, call()),
    "a scheme": (*EMBEDDINGS, {"Authorization": f"Basic {KEY}"}, call()),
    "models without a key": ("GET", "/v1/models", {"Authorization": ""}, b""),
    "plain text": (*EMBEDDINGS, {"Content-Type": "text/plain"}, call()),
    "a form's type": (*EMBEDDINGS, {"Content-Type": "application/x-www-form-urlencoded"}, call()),
    "no type": (*EMBEDDINGS, {"Content-Type": ""}, call()),
    "a type in capitals": (
        *EMBEDDINGS,
        {"Content-Type": "Application/JSON; charset=utf-8"},
        call(),
    ),
    "a type before a length": (*EMBEDDINGS, {"Content-Type": "text/plain"}, b"a" * 50_000),
    "a long header": (*EMBEDDINGS, {"X-Forwarded-Access-Token": "a" * 30_000}, call()),
    "a host": (*EMBEDDINGS, {"Host": "evil.example"}, call()),
    "an origin": (*EMBEDDINGS, {"Origin": "https://evil.example"}, call()),
    "another method": ("GET", "/v1/embeddings", {}, b""),
    "another method without a key": ("DELETE", "/v1/models", {"Authorization": ""}, b""),
    "another path": ("POST", "/v1/completions", {}, call()),
    "another path without a key": ("POST", "/v1/x", {"Authorization": ""}, call()),
    "a model that is not there": ("GET", "/v1/models/gpt", {}, b""),
}


class Pair:
    """A guard before an engine that answers right, and a gateway before the two."""

    def __init__(self) -> None:
        known = ScriptedServer()

        async def engine(_scope: Any, receive: Any, send: Any) -> None:
            asked = json.loads((await receive())["body"])
            one = isinstance(asked["input"], str) or isinstance(asked["input"][0], int)
            body = {**asked, "input": [asked["input"]] if one else asked["input"]}
            content = json.dumps(known.answer(body)).encode()
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": content, "more_body": False})

        origins = tuple(SETTINGS.origins or ())
        self._service = Service(
            KEY, engine, model="m", dimensions=16, origins=origins, open_tokens=10**6, **MOST
        )
        self.direct = self.through = ""

    async def _guarded(self, request: web.Request) -> web.Response:
        try:
            raw = await request.read()
        except aiohttp.ClientError:
            raw = b""
        given = {"content-type": "", **{n.lower(): v for n, v in request.headers.items()}}
        said = await self._service.asked(request.method, request.path, raw, given)
        return web.Response(status=said.status, headers=said.headers, body=said.body)

    @asynccontextmanager
    async def running(self, *, guarded: bool = True) -> Any:
        """`guarded`: whether the gateway knows that the guard is there."""
        app = web.Application(client_max_size=1 << 20)
        app.router.add_route("*", "/{path:.*}", self._guarded)
        front = TestServer(app)
        await front.start_server(max_field_size=1 << 16)
        bench = Bench(Memory(), settings=SETTINGS, keys=OneKey(KEY))
        try:
            async with bench:
                bench.sources[0].url = str(front.make_url("/v1"))
                bench.sources[0].key = KEY
                bench.sources[0].guarded = bench.sources[0].whole = guarded
                self.direct, self.through = str(front.make_url("/")), bench.url
                yield self
        finally:
            await front.close()


async def answered(
    base: str, method: str, path: str, headers: dict[str, str], body: bytes
) -> dict[str, Any]:
    kept = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", **headers}
    left_out = [name for name, value in kept.items() if not value]
    given = {name: value for name, value in kept.items() if value}
    async with (
        aiohttp.ClientSession(skip_auto_headers=left_out) as session,
        session.request(method, base[:-1] + path, data=body or None, headers=given) as answer,
    ):
        said: dict[str, Any] = {"status": answer.status}
        if answer.status >= 400:
            error = (await answer.json())["error"]
            said |= {name: error[name] for name in ("type", "code", "param")}
            said["WWW-Authenticate"] = answer.headers.get("WWW-Authenticate")
        return said


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("case", ASKED)
def test_one_answer_whether_a_cache_stands_before_it_or_not(case: str, guarded: bool) -> None:
    """`no_such_model` was `model_not_found` at the engine, a wrong key another error, and so on."""

    async def work() -> None:
        async with Pair().running(guarded=guarded) as pair:
            direct = await answered(pair.direct, *ASKED[case])
            # Twice: what is refused must not depend on what is in the cache either.
            for _ in range(2):
                assert await answered(pair.through, *ASKED[case]) == direct
            assert direct["status"] == 200 or direct["code"]

    run(work())


@pytest.mark.parametrize("case", ["another path", "another method"])
def test_what_is_no_route_is_told_what_is(case: str) -> None:
    """A base URL without `/v1` was answered `404 Not Found`."""

    async def work() -> None:
        async with Pair().running() as pair, aiohttp.ClientSession() as session:
            method, path, headers, body = ASKED[case]
            given = {"Authorization": f"Bearer {KEY}", **headers}
            said = []
            for base in (pair.direct, pair.through):
                url = base[:-1] + path
                async with session.request(method, url, data=body, headers=given) as answer:
                    said.append((await answer.json())["error"]["message"])
            assert said[0] == said[1]

    run(work())


def test_openai_s_own_words() -> None:
    async def work() -> None:
        async with Pair().running() as pair:
            unknown = await answered(pair.through, *ASKED["another model"])
            assert (unknown["status"], unknown["code"], unknown["param"]) == (
                404,
                "model_not_found",
                "model",
            )
            wrong = await answered(pair.through, *ASKED["a wrong key"])
            assert (wrong["status"], wrong["code"]) == (401, "invalid_api_key")
            assert wrong["type"] == "authentication_error"
            assert wrong["WWW-Authenticate"] == "Bearer"

    run(work())
