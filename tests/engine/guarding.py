"""The guard's package, importable here as the engine's Python imports it, and a small service."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from launcher.engine import command

if str(command.GUARD) not in sys.path:
    sys.path.append(str(command.GUARD))

from qlaunch_guard import direct, held, idle, memory, own, routes, settings, tokens
from qlaunch_guard.asgi import Guard
from qlaunch_guard.settings import Settings

__all__ = [
    "Guard",
    "Settings",
    "direct",
    "held",
    "idle",
    "memory",
    "own",
    "routes",
    "settings",
    "tokens",
]

Message = dict[str, Any]
App = Callable[..., Awaitable[None]]
TOKEN, RUN = "own-token", "run-1"


def limits(**changes: Any) -> Any:
    """Limits of a small model: 100 tokens, texts of 10 of them."""
    values: dict[str, Any] = {
        "model": "tiny",
        "vocabulary": 100,
        "text_tokens": 10,
        "text_bytes": 1000,
        "inputs": 8,
        "call_tokens": 50,
        "call_bytes": 7000,
        "body_bytes": 40_000,
        "dimensions": 4,
        "cut": False,
        "metrics": False,
        "loopback": True,
        "hosts": (),
        "origins": (),
        "open_calls": 4,
        "open_bytes": 100_000,
        "open_inputs": 12,
        "open_tokens": 120,
        "body_seconds": 0.5,
    }
    return Settings(**{**values, **changes})


@dataclass
class Said:
    """What came back, and what the engine's own application was given."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    passed: dict[str, Any] | None = None
    given: bytes = b""

    @property
    def error(self) -> dict[str, Any]:
        found = json.loads(self.body)
        assert set(found) == {"error"}
        assert set(found["error"]) == {"message", "type", "param", "code"}
        error: dict[str, Any] = found["error"]
        return error


class Service:
    """A guard before an application that answers as SGLang's does, CORS for everybody included."""

    def __init__(self, key: str | None = None, app: App | None = None, **changes: Any) -> None:
        self.guard = Guard(limits(**changes), TOKEN, RUN)
        self.key = key
        self.app = app or self.engine
        self.last = Said()

    async def engine(self, scope: Message, receive: Any, send: Any) -> None:
        self.last.passed = scope
        if scope["method"] == "POST":
            self.last.given = (await receive())["body"]
        headers = [(b"content-type", b"application/json"), (b"Access-Control-Allow-Origin", b"*")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}", "more_body": False})

    def ask(
        self,
        method: str = "GET",
        path: str = "/health",
        body: bytes | list[bytes] | None = None,
        headers: dict[str, str] | None = None,
        **scope: Any,
    ) -> Said:
        return asyncio.run(self.asked(method, path, body, headers, **scope))

    async def asked(
        self,
        method: str = "GET",
        path: str = "/health",
        body: bytes | list[bytes] | None = None,
        headers: dict[str, str] | None = None,
        **scope: Any,
    ) -> Said:
        said = self.last = Said()
        parts = [body] if isinstance(body, bytes) else list(body or [b""])
        kind = {"content-type": "application/json"} if method == "POST" else {}
        given = {"host": "127.0.0.1:1", **kind, **(headers or {})}
        queue = [
            {"type": "http.request", "body": part, "more_body": at + 1 < len(parts)}
            for at, part in enumerate(parts)
        ]

        async def receive() -> Message:
            if queue:
                return queue.pop(0)
            await asyncio.sleep(0)
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                said.status = message["status"]
                said.headers = {
                    name.decode().lower(): value.decode() for name, value in message["headers"]
                }
            elif message["type"] == "http.response.body":
                said.body += message.get("body", b"")

        whole = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(name.lower().encode(), v.encode()) for name, v in given.items()],
            **scope,
        }
        await self.guard.serve(self.app, self.key, whole, receive, send)
        return said

    def embed(self, document: object, **more: Any) -> Said:
        raw = document if isinstance(document, bytes) else json.dumps(document).encode()
        return self.ask("POST", "/v1/embeddings", raw, **more)
