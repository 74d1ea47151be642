"""A server with OpenAI's interface for embeddings, in this process, that errs as it is told."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import math
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer


def truth(item: Any, dimensions: int = 16, model: str = "m") -> list[float]:
    """The right vector of an input: unit length, float32, another one for every input and model."""
    seed = hashlib.sha256(json.dumps([model, item]).encode()).digest()
    raw = b"".join(hashlib.sha256(seed + bytes([n])).digest() for n in range(-(-dimensions // 8)))
    numbers = [
        int.from_bytes(raw[4 * n : 4 * n + 4], "little") / 2**31 - 1 for n in range(dimensions)
    ]
    length = math.sqrt(sum(x * x for x in numbers))
    return array("f", [x / length for x in numbers]).tolist()


class ScriptedServer:
    """Answers right unless told otherwise; counts what it is asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        """How often each input was computed, as JSON."""
        self.calls: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.model = "m"
        self.dimensions = 16
        self.status = 200
        self.error_headers: dict[str, str] = {}
        self.error_body = '{"error":{"message":"no"}}'
        self.refused: Callable[[Any], bool] = lambda _item: False
        """Inputs for which the whole call is refused with 400."""
        self.spoil: Callable[[dict[str, Any]], Any] = lambda answer: answer
        """What becomes of the answer on its way; text is sent as it is."""
        self.base64 = True
        self.packed: Callable[[list[float]], bytes] = lambda vector: array("f", vector).tobytes()
        """What its base64 holds."""
        self.gate: asyncio.Event | None = None
        """Calls wait for it."""
        self.delay_s = 0.0
        """Before each answer."""
        self.drop = 0
        """Of so many calls the connection is closed instead of an answer."""
        self.tells_tokens = False
        """Whether a header tells the tokens of each input."""
        self.answer_headers: dict[str, str] = {}
        self.listing: bytes | int = b'{"object":"list","data":[{"id":"m","object":"model"}]}'
        """The list of models; a number is a status without one."""
        self.url = ""
        self._called = asyncio.Event()

    async def embeddings(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/embeddings."""
        body = await request.json()
        self.calls.append(body)
        self._called.set()
        self.headers.append(request.headers)
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(self.delay_s)
        if self.drop:
            self.drop -= 1
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if self.status != 200:
            return web.Response(
                status=self.status, text=self.error_body, headers=self.error_headers
            )
        if not self.base64 and body.get("encoding_format") == "base64":
            return web.Response(status=400, text='{"message":"encoding_format: only float"}')
        odd = next((at for at, item in enumerate(body["input"]) if self.refused(item)), None)
        if odd is not None:
            said = {"message": f"input[{odd}] is refused", "param": "input"}
            return web.Response(status=400, text=json.dumps({"error": said}))
        self.asked.update(json.dumps(item) for item in body["input"])
        answer = self.spoil(self.answer(body))
        text = answer if isinstance(answer, str) else json.dumps(answer)
        headers = dict(self.answer_headers)
        if self.tells_tokens:
            headers["X-Qlaunch-Tokens"] = ",".join(str(len(item)) for item in body["input"])
        return web.Response(text=text, content_type="application/json", headers=headers)

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """A right answer."""
        size = body.get("dimensions") or self.dimensions
        data = []
        for index, item in enumerate(body["input"]):
            vector: Any = truth(item, size, self.model)
            if body.get("encoding_format") == "base64":
                vector = base64.b64encode(self.packed(vector)).decode()
            data.append({"object": "embedding", "index": index, "embedding": vector})
        tokens = sum(len(item) for item in body["input"])
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": body["model"], "usage": usage}

    async def wait_for_calls(self, count: int) -> None:
        """Until so many have come."""
        while len(self.calls) < count:
            self._called.clear()
            await self._called.wait()

    async def models(self, _request: web.Request) -> web.Response:
        """GET /v1/models."""
        if isinstance(self.listing, int):
            return web.Response(
                status=self.listing, headers={"Location": "https://other/v1/models"}
            )
        return web.Response(body=self.listing, content_type="application/json")

    @asynccontextmanager
    async def running(self, port: int = 0) -> Any:
        """Listen; `url` says where."""
        app = web.Application(client_max_size=1 << 28)
        app.router.add_post("/v1/embeddings", self.embeddings)
        app.router.add_get("/v1/models", self.models)
        server = TestServer(app, port=port)
        await server.start_server()
        self.url = str(server.make_url("/v1"))
        try:
            yield self
        finally:
            await server.close()
