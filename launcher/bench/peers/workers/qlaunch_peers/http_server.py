"""The least of a server: `/health` and `/v1/embeddings` (base64 and decimal), for one client to
measure whatever computes behind it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WAITING = 512
"""Connections that may wait to be accepted: 5, Python's own, makes the sixth of a burst wait for a
second until the kernel asks again."""


@dataclass(frozen=True)
class Answer:
    """What came of the texts of one request."""

    vectors: Any
    """Array of shape (texts, dimensions)."""
    tokens: int | None = None
    """Of all texts together, special tokens counted; None: not counted."""


Encode = Callable[[list[str]], Answer]


class _Server(ThreadingHTTPServer):
    request_queue_size = WAITING
    daemon_threads = True


def serve(port: int, encode: Encode) -> None:
    """Answer requests on loopback, a thread a connection, until the process is ended."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else headers and body wait for each other, 40 ms

        def do_GET(self) -> None:
            self._answer(200 if self.path == "/health" else 404, {})

        def do_POST(self) -> None:
            try:
                asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
                texts = asked["input"]
                answer = encode([texts] if isinstance(texts, str) else list(texts))
            except (ValueError, KeyError, TypeError, RuntimeError) as error:
                self._answer(400, {"message": f"{type(error).__name__}: {error}"})
                return
            as_text = asked.get("encoding_format") == "base64"
            document: dict[str, object] = {
                "object": "list",
                "data": _items(answer.vectors, as_text=as_text),
            }
            if answer.tokens is not None:
                document["usage"] = {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}
            self._answer(200, document)

        def _answer(self, status: int, document: dict[str, object]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """No access lines."""

    _Server(("127.0.0.1", port), Handler).serve_forever()


def _items(vectors: Any, *, as_text: bool) -> list[dict[str, object]]:
    def shown(vector: Any) -> Any:
        if as_text:
            return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
        return vector.tolist()

    return [
        {"object": "embedding", "index": place, "embedding": shown(vector)}
        for place, vector in enumerate(vectors)
    ]
