"""SGLang's own application and its handler of embeddings, asked the whole way and the short one.

For inside.py, in the engine's Python. What computes is a stand-in: the vector of an input tells its
length, and some texts are refused as SGLang's own parts refuse them.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "launcher" / "plugin" / "guard"))

from qlaunch_guard import direct
from qlaunch_guard.asgi import Replay, Whole
from sglang.srt.entrypoints import http_server
from sglang.srt.entrypoints.openai.serving_embedding import (
    OpenAIServingEmbedding,
)


class Manager:
    """SGLang's tokenizer manager, as far as the handler knows it."""

    served_model_name = model_path = "tiny"
    server_args = None
    tokenizer = None
    request_logger = SimpleNamespace(log_requests=False)

    async def generate_request(self, asked: Any, request: Any) -> Any:
        """The vectors of one call, or its failure."""
        assert not await request.is_disconnected()
        asked.normalize_batch_and_arguments()
        given = asked.text if asked.text is not None else asked.input_ids
        if "too long" in given:
            raise ValueError("The input (9 tokens) is longer than the model's context length")
        if "broken" in given:
            raise RuntimeError("something is broken")
        many = not asked.is_single
        made = [
            {
                "embedding": [float(len(one)), float(asked.dimensions or 0), 0.1],
                "meta_info": {"prompt_tokens": len(one)},
            }
            for one in (given if many else [given])
        ]
        yield made if many else made[0]


class Serving(OpenAIServingEmbedding):  # type: ignore[misc]
    """The real handler; it tells which thread converts a request."""

    threads: list[bool]

    def _convert_to_internal_request(self, *args: Any, **kwargs: Any) -> Any:
        self.threads.append(threading.current_thread() is threading.main_thread())
        return super()._convert_to_internal_request(*args, **kwargs)


def asked(document: dict[str, Any]) -> Any:
    """The answers of both ways to one call, and whether the loop's own thread converted each."""
    app = http_server.app
    serving = Serving(Manager(), SimpleNamespace(chat_template_name=None))
    serving.threads = []
    app.state.openai_serving_embedding = serving
    app.server_args = SimpleNamespace(api_key=None)
    whole = Whole(type(app).__call__, app)
    found = [asyncio.run(_one(way, whole, document)) for way in ("whole", "short")]
    return {"whole": found[0], "short": found[1], "own_thread": serving.threads}


async def _one(way: str, whole: Any, document: dict[str, Any]) -> Any:
    given = json.dumps(document).encode()
    scope = {
        "type": "http",
        "http_version": "1.1",
        "scheme": "http",
        "method": "POST",
        "path": "/v1/embeddings",
        "raw_path": b"/v1/embeddings",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"h"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(60)  # the client stays
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    if way == "whole":
        await whole(scope, Replay(given, receive), send)
    elif not await direct.answer(whole, given, scope, receive, send):
        return None
    begin, *parts = sent
    headers = {name.decode().lower(): value.decode() for name, value in begin["headers"]}
    body = b"".join(part.get("body", b"") for part in parts)
    return {"status": begin["status"], "type": headers["content-type"], "body": json.loads(body)}
