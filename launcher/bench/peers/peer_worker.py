"""sentence-transformers as people use it in their own process, behind the least of a server.

Runs in the peer's own Python and imports nothing of ours. One call of `encode` at a time, with the
texts of one request, as a program without a server around it would do. Speaks `/health` and
`/v1/embeddings` (base64 and decimal), so that the same client measures it.
"""

from __future__ import annotations

import argparse
import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def main() -> None:
    """Load the model and serve until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-path", required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()

    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        given.model_path, device="cpu", model_kwargs={"dtype": getattr(torch, given.dtype)}
    )
    model.encode(["warm-up"])
    one_at_a_time = threading.Lock()

    def encode(texts: list[str]) -> Any:
        with one_at_a_time:
            found = model.encode(
                texts, batch_size=len(texts), convert_to_tensor=True, show_progress_bar=False
            )
        return found.float().numpy()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else headers and body wait for each other, 40 ms

        def do_GET(self) -> None:
            self._answer(200 if self.path == "/health" else 404, {})

        def do_POST(self) -> None:
            try:
                asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
                texts = asked["input"]
                texts = [texts] if isinstance(texts, str) else list(texts)
                vectors = encode(texts)
            except (ValueError, KeyError, TypeError, RuntimeError) as error:
                self._answer(400, {"message": f"{type(error).__name__}: {error}"})
                return
            as_text = asked.get("encoding_format") == "base64"
            self._answer(200, {"object": "list", "data": _items(vectors, as_text=as_text)})

        def _answer(self, status: int, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """No access lines."""

    ThreadingHTTPServer(("127.0.0.1", given.port), Handler).serve_forever()


def _items(vectors: Any, *, as_text: bool) -> list[dict[str, Any]]:
    def shown(vector: Any) -> Any:
        if as_text:
            return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
        return vector.tolist()

    return [
        {"object": "embedding", "index": place, "embedding": shown(vector)}
        for place, vector in enumerate(vectors)
    ]


if __name__ == "__main__":
    main()
