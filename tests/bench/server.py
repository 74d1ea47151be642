"""A small embedding server whose answers tests can bend."""

from __future__ import annotations

import base64
import json
import math
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from launcher.bench.target import Target
from launcher.bench.texts import TextSource

WIDTH = 8
Entry = dict[str, Any]
Edit = Callable[[int, list[Entry]], list[Entry]]


@dataclass
class Behaviour:
    """What the server does; `number` is the call's, from 0."""

    seconds: Callable[[int], float] = lambda _number: 0.0
    edit: Callable[[int, list[Entry]], list[Entry]] = lambda _number, data: data
    status: Callable[[int], int] = lambda _number: 200
    body: Callable[[int], bytes | None] = lambda _number: None
    drop: Callable[[int], bool] = lambda _number: False
    tokens: Callable[[str], int] | None = lambda text: len(text.split()) + 2
    base64: bool = True
    key: str | None = None
    url: str = ""
    seen: list[str] = field(default_factory=list)
    encodings: set[str] = field(default_factory=set)
    most: int = 0
    """Calls at once."""
    now: int = 0
    calls: int = 0
    connections: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def target(self, **changes: Any) -> Target:
        values: dict[str, Any] = {
            "mode": "test",
            "url": self.url,
            "model": "m",
            "dimensions": WIDTH,
            "key": self.key,
        }
        return Target(**{**values, **changes})


def words(seed: int | None = None) -> TextSource:
    """Texts as the server counts them: a token a word and two around."""
    return TextSource([f"head{n}" for n in range(9)], {f"w{n}": 1 for n in range(500)}, 3, seed)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behaviour: Behaviour

    def log_message(self, *_: object) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        with self.behaviour.lock:
            self.behaviour.connections += 1

    def do_POST(self) -> None:
        given = self.behaviour
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with given.lock:
            number, given.calls = given.calls, given.calls + 1
            given.now += 1
            given.most = max(given.most, given.now)
            given.seen += request["input"]
            given.encodings.add(request["encoding_format"])
        try:
            time.sleep(given.seconds(number))
            self._answer(number, request)
        finally:
            with given.lock:
                given.now -= 1

    def _answer(self, number: int, request: dict[str, Any]) -> None:
        given = self.behaviour
        if given.drop(number):
            self.close_connection = True
            self.connection.close()
            return
        if given.key is not None and self.headers.get("Authorization") != f"Bearer {given.key}":
            self._send(401, json.dumps({"message": f"not {given.key}"}).encode())
            return
        status = given.status(number)
        if status != 200:
            self._send(status, json.dumps({"object": "error", "message": "too much"}).encode())
            return
        as_base64 = given.base64 and request["encoding_format"] == "base64"
        data = [
            {"object": "embedding", "index": at, "embedding": vector(as_base64=as_base64)}
            for at in range(len(request["input"]))
        ]
        document: dict[str, Any] = {"object": "list", "data": given.edit(number, data)}
        if given.tokens is not None:
            counted = sum(given.tokens(text) for text in request["input"])
            document["usage"] = {"prompt_tokens": counted, "total_tokens": counted}
        self._send(200, given.body(number) or json.dumps(document).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def vector(first: float = 0.5, width: int = WIDTH, *, as_base64: bool = True) -> Any:
    numbers = ([first] + [0.25] * width)[:width]
    if not as_base64:
        return numbers
    return base64.b64encode(struct.pack(f"<{width}f", *numbers)).decode()


def spoilt(
    first: float = math.nan, width: int = WIDTH
) -> Callable[[int, list[Entry]], list[Entry]]:
    """The last vector of every answer made wrong."""

    def edit(_number: int, data: list[Entry]) -> list[Entry]:
        data[-1]["embedding"] = vector(first, width)
        return data

    return edit


@contextmanager
def serving(**behaviour: Any) -> Iterator[Behaviour]:
    given = Behaviour(**behaviour)
    own = type("Own", (_Handler,), {"behaviour": given})
    server = ThreadingHTTPServer(("127.0.0.1", 0), own)
    server.daemon_threads = True
    given.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield given
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
