"""Clients that send their bodies slowly, or stop within them: others are answered all the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.engine.guarding import RUN, Service, held
from tests.patience import PATIENCE_S


class Slow:
    """A client that sends one part of its body and stops."""

    def __init__(self, service: Service, part: bytes) -> None:
        self.service, self.part = service, part
        self.sent: list[dict[str, Any]] = []
        self.task = asyncio.create_task(self.ask())

    async def ask(self) -> None:
        parts = [{"type": "http.request", "body": self.part, "more_body": True}]

        async def receive() -> dict[str, Any]:
            if not parts:
                await asyncio.sleep(600)
            return parts.pop()

        async def send(message: dict[str, Any]) -> None:
            self.sent.append(message)

        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/embeddings", "headers": headers}
        await self.service.guard.serve(self.service.app, None, scope, receive, send)

    @property
    def open(self) -> bool:
        return not self.sent


class TestClientsThatSendSlowly:
    """A thousand half bodies, or five large ones, kept everybody out for as long as they might."""

    def test_half_bodies_are_no_calls(self) -> None:
        async def run() -> None:
            service = Service(body_seconds=600.0)
            slow = [Slow(service, b"{") for _ in range(7)]
            await asyncio.sleep(0.05)
            assert [each.open for each in slow] == [False] * 3 + [True] * 4, "open_calls is 4"
            assert slow[0].sent[0]["status"] == 503
            assert (b"connection", b"close") in slow[0].sent[0]["headers"]
            said = await service.asked("POST", "/v1/embeddings", b'{"input":"a"}')
            assert said.status == 200
            for each in slow:
                each.task.cancel()
            await asyncio.gather(*(each.task for each in slow), return_exceptions=True)
            assert service.guard.calls == service.guard.bytes == len(service.guard.arriving) == 0

        asyncio.run(run())

    def test_the_largest_half_body_makes_way(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(held, "GRACE_SECONDS", 0.0)

        async def run() -> None:
            service = Service(open_bytes=60, body_seconds=600.0)
            small, large = Slow(service, b"{"), Slow(service, b"{" * 50)
            await asyncio.sleep(0.05)
            said = await service.asked("POST", "/v1/embeddings", b'{"input":"abcd"}')
            assert said.status == 200
            await asyncio.wait_for(large.task, PATIENCE_S)
            assert large.sent[0]["status"] == 503
            assert small.open
            assert (service.guard.calls, service.guard.bytes) == (1, 1)
            small.task.cancel()

        asyncio.run(run())

    def test_bodies_that_have_just_begun_are_left_alone(self) -> None:
        async def run() -> None:
            service = Service(open_bytes=60, body_seconds=600.0)
            large = Slow(service, b"{" * 50)
            await asyncio.sleep(0)
            said = await service.asked("POST", "/v1/embeddings", b'{"input":"abcd"}')
            assert said.status == 503
            assert large.open
            large.task.cancel()

        asyncio.run(run())

    def test_the_supervisors_own_makes_no_way(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(held, "GRACE_SECONDS", 0.0)

        async def run() -> None:
            service = Service(open_bytes=20, open_calls=1)
            slow = Slow(service, b"{" * 20)
            await asyncio.sleep(0.05)
            own = {"x-qlaunch-run": RUN}
            said = await service.asked("POST", "/v1/embeddings", b'{"input":"abcdefghijkl"}', own)
            assert said.status == 200
            assert slow.open
            slow.task.cancel()

        asyncio.run(run())
