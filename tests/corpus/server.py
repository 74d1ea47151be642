"""A server of embeddings whose every answer a test decides."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.fake_engine import vector

Decide = Callable[[list[str]], "tuple[int, str] | list[list[float]] | None"]
"""A status and its message, or other vectors; None answers as a good server does."""


class Server:
    """Listens on a free port until `stop`.

    Args:
        decide: what to answer to some texts.
        dimensions: of its vectors.
        keep: whether to keep what it was asked.
    """

    def __init__(
        self, decide: Decide = lambda _: None, dimensions: int = 8, *, keep: bool = True
    ) -> None:
        self.decide, self.dimensions = decide, dimensions
        self.calls: list[list[str]] = []
        self.asked: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

            def do_GET(self) -> None:
                self.answer(200, {"data": [{"id": "served"}]})

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if keep:
                    outer.asked.append(asked)
                    outer.calls.append(asked["input"])
                self.answer(*outer.respond(asked))

            def answer(self, status: int, document: Any) -> None:
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that went is part of some tests

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def respond(self, asked: dict[str, Any]) -> tuple[int, Any]:
        texts = asked["input"]
        decided = self.decide(texts)
        if isinstance(decided, tuple):
            return decided[0], {"error": {"message": decided[1]}}
        width = asked.get("dimensions", self.dimensions)
        vectors = decided or [vector(text, width) for text in texts]
        data = [{"index": at, "embedding": each} for at, each in enumerate(vectors)]
        return 200, {"data": data, "usage": {"prompt_tokens": sum(map(words, texts))}}

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def words(text: str) -> int:
    return len(text.split())
