"""A scripted embedding server and a made-up reference for it to agree or disagree with."""

from __future__ import annotations

import base64
import json
import math
import random
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from launcher.documents.smoke import VerifyRequest
from launcher.verify import texts
from launcher.verify.reference import Outcome, Reference
from tests.patience import PATIENCE_S

Vector = list[float]
Entry = dict[str, Any]
WIDTH = 16


def unit(vector: Vector) -> Vector:
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector]


def vector_of(text: str, kind: str = "mean") -> Vector:
    """A vector that depends on the text and the pooling; related texts come out close."""
    topics = {texts.BY_NAME[near]: texts.BY_NAME[anchor] for anchor, near, _ in texts.TRIPLES}
    noise = random.Random(f"{kind} {text}")
    topic = random.Random(f"{kind} topic {topics.get(text, text)}")
    return unit([topic.gauss(0, 1) + 0.3 * noise.gauss(0, 1) for _ in range(WIDTH)])


def reference(kinds: tuple[str, ...] = ("cls", "last", "max")) -> Outcome:
    """The reference an honest fake engine agrees with."""

    def all_of(kind: str) -> dict[str, Vector]:
        return {each.name: vector_of(each.text, kind) for each in texts.TEXTS}

    made = Reference(all_of("mean"), {kind: all_of(kind) for kind in kinds}, ("mean",), {})
    return Outcome(made, "cached")


@dataclass
class Call:
    """One request the server got: its number from 0, its inputs, and the format asked for."""

    number: int
    inputs: list[str]
    encoding: str
    key: str | None
    dimensions: int | None = None


Edit = Callable[[Call, list[Entry]], list[Entry]]


@dataclass
class FakeEngine:
    """What the server does; each hook plants one fault."""

    url: str = ""
    vector: Callable[[Call, str], Vector] = lambda _call, text: vector_of(text)
    edit: Edit = lambda _call, data: data
    raw: Callable[[Call], tuple[int, str, bytes] | None] = lambda _call: None
    hangs: Callable[[Call], bool] = lambda _call: False
    drips: Callable[[Call], bool] = lambda _call: False
    base64: bool = True
    longest: int = 511
    """Token ids of the longest input that is answered."""
    location: str = ""
    tokens: Callable[[str], int | None] = lambda _text: None
    """Tokens of a text, for the answer's `usage`; None leaves it out."""
    calls: list[Call] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def spelled(self, given: str | list[int]) -> str:
        """The text that token ids stand for: `ids_of` backwards."""
        return given if isinstance(given, str) else "".join(map(chr, given))

    def refuses(self, inputs: list[str | list[int]]) -> bool:
        """Whether an input has more token ids than fit; of texts `raw` and `tokens` may say it."""
        return any(isinstance(each, list) and len(each) > self.longest for each in inputs)

    def cut(self, call: Call, text: str) -> Vector:
        """The text's vector in as many dimensions as asked, cut before it is normalised."""
        whole = self.vector(call, text)
        return whole if call.dimensions is None else unit(whole[: call.dimensions])

    def answer(self, call: Call) -> tuple[int, str, bytes]:
        """Status, content type and body for `call`."""
        raw = self.raw(call)
        if raw is not None:
            return raw
        data: list[Entry] = [
            {"object": "embedding", "index": index, "embedding": self.cut(call, text)}
            for index, text in enumerate(call.inputs)
        ]
        data = self.edit(call, data)
        if self.base64 and call.encoding == "base64":
            for entry in data:
                packed = struct.pack(f"<{len(entry['embedding'])}f", *entry["embedding"])
                entry["embedding"] = base64.b64encode(packed).decode()
        document: Entry = {"object": "list", "model": "fake", "data": data}
        counts = [self.tokens(text) for text in call.inputs]
        if None not in counts:
            total = sum(count for count in counts if count is not None)
            document["usage"] = {"prompt_tokens": total, "total_tokens": total}
        return 200, "application/json", json.dumps(document).encode()


def ids_of(text: str) -> list[int]:
    """Token ids of the fake tokenizer: the characters' codes."""
    return list(map(ord, text))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    engine: FakeEngine

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        return

    def _send(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        engine = self.engine
        call = Call(
            len(engine.calls),
            [engine.spelled(each) for each in body["input"]],
            body.get("encoding_format", ""),
            self.headers["Authorization"],
            body.get("dimensions"),
        )
        engine.calls.append(call)
        if engine.refuses(body["input"]):
            self._send(400, json.dumps({"message": "The input is longer than the context"}))
            return
        if engine.hangs(call):
            engine.released.wait(PATIENCE_S)
            self.close_connection = True
            return
        status, kind, answer = engine.answer(call)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(answer)))
        if engine.location:
            self.send_header("Location", engine.location)
        self.end_headers()
        if engine.drips(call):
            for at in range(len(answer)):
                if engine.released.wait(0.02):
                    break
                self.wfile.write(answer[at : at + 1])
            self.close_connection = True
            return
        self.wfile.write(answer)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is part of the script."""


@contextmanager
def serving(engine: FakeEngine) -> Iterator[FakeEngine]:
    """`engine` on a loopback port of its own; `engine.url` is its endpoint."""
    handler = type("Handler", (_Handler,), {"engine": engine})
    with _Server(("127.0.0.1", 0), handler) as server:
        engine.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield engine
        finally:
            engine.released.set()
            server.shutdown()
            thread.join()


def request(url: str = "http://127.0.0.1:9/v1", **changes: Any) -> VerifyRequest:
    """A request that the honest fake engine passes."""
    values: dict[str, Any] = {
        "endpoint": url,
        "model": "fake",
        "model_path": "nowhere",
        "fingerprint": "abc123",
        "dimensions": WIDTH,
        "normalize": True,
        "pooling": "mean",
        "encoder": True,
        "max_running_requests": 4,
        "context_length": 512,
        "parity_min": 0.999,
        "dtype": "bfloat16",
        "engine_python": None,
        "reference_cache": "nowhere",
        "timeout_s": 10.0,
    }
    return VerifyRequest(**{**values, **changes})
