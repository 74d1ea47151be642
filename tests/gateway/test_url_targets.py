"""Servers known by URL, before they are reached and whatever they list."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from launcher.gateway.run import GatewaySettings, UrlGroup, _serve
from launcher.gateway.url_source import NoListError, served_models
from tests.gateway.harness import Reply, run, until
from tests.gateway.scripted_server import ScriptedServer

NOBODY = "http://127.0.0.1:9/v1"


class Front:
    """A gateway that answers."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url

    async def ask(self, model: str | None) -> Reply:
        body: dict[str, Any] = {"input": ["x"]} | ({} if model is None else {"model": model})
        async with self._session.post(f"{self._url}/embeddings", json=body) as answer:
            return Reply(answer.status, answer.headers, await answer.json())

    async def ready(self) -> bool:
        async with self._session.get(f"{self._url[:-3]}/ready") as answer:
            return answer.status == 200

    async def status(self, model: str | None, wanted: int) -> None:
        """Wait until a request is answered so."""
        while (await self.ask(model)).status != wanted:  # noqa: ASYNC110 - clients can but ask
            await asyncio.sleep(0)


@asynccontextmanager
async def front(*urls: UrlGroup) -> AsyncIterator[Front]:
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    settings = GatewaySettings(host="127.0.0.1", port=0, urls=urls)
    serving = asyncio.create_task(_serve(settings, told.set_result, None))
    try:
        async with aiohttp.ClientSession() as session:
            yield Front(session, await told)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def target(name: str | None, *urls: str) -> UrlGroup:
    return UrlGroup(name=name, urls=urls)


def listing(*models: str, root: str | None = None) -> bytes:
    data = [{"id": model, "object": "model", "root": root} for model in models]
    return json.dumps({"object": "list", "data": data}).encode()


def test_a_model_whose_server_is_not_there_yet_is_no_404_and_the_gateway_not_ready() -> None:
    async def work() -> None:
        async with ScriptedServer().running() as server:
            async with front(target("m", server.url), target("late", NOBODY)) as gateway:
                await gateway.status("m", 200)
                late = await gateway.ask("late")
                assert (late.status, late.body["error"]["code"]) == (503, "upstream_down")
                assert late.headers["Retry-After"]
                assert not await gateway.ready()
                assert (await gateway.ask("never")).status == 404
            async with front(target("m", server.url), target(None, NOBODY)) as gateway:
                await gateway.status("m", 200)
                assert (await gateway.ask("any")).status == 503  # that server may have it
                assert not await gateway.ready()
            async with front(target("m", server.url, NOBODY)) as gateway:
                await gateway.status("m", 200)
                assert await gateway.ready()

    run(work())


def test_no_model_is_guessed_of_several_that_a_server_lists(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        async with ScriptedServer().running() as server:
            server.listing = listing("llama3", "nomic")
            async with front(target("embed", server.url)) as gateway:
                await until(lambda: "none is called 'embed'" in caplog.text)
                assert (await gateway.ask("embed")).status == 503
            assert not server.calls
            async with front(target("nomic", server.url)) as gateway:
                await gateway.status("nomic", 200)
            assert {call["model"] for call in server.calls} == {"nomic"}

    with caplog.at_level(logging.WARNING):
        run(work())
    assert "--alias embed=MODEL" in caplog.text


def test_several_names_of_one_model_are_one() -> None:
    async def work() -> None:
        async with ScriptedServer().running() as server:
            server.listing = listing("minilm", "text-embedding-3-small", root="/models/minilm")
            async with front(target("embed", server.url)) as gateway:
                await gateway.status("embed", 200)
            assert {call["model"] for call in server.calls} == {"minilm"}

    run(work())


@pytest.mark.parametrize("odd", [b'{"data":[{"id":"\xff"}]}', b"[" * 100_000, b"{}"])
def test_a_list_of_models_that_is_none_is_asked_for_again(odd: bytes) -> None:
    async def work() -> None:
        async with ScriptedServer().running() as server:
            server.listing = odd
            async with front(target("m", server.url)) as gateway:
                await gateway.status("m", 503)
                server.listing = listing("m")
                await gateway.status("m", 200)

    run(work())


def test_a_server_without_a_list_of_models_is_asked_by_the_name_that_is_given(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        async with ScriptedServer().running() as server:
            server.listing = server.status = 404  # a proxy whose server is not there yet
            async with front(target("voyage-3", server.url)) as gateway:
                await server.wait_for_calls(1)
                await gateway.status("voyage-3", 503)
                server.status = 200
                await gateway.status("voyage-3", 200)
            assert {call["model"] for call in server.calls} == {"voyage-3"}

    with caplog.at_level(logging.WARNING):
        run(work())
    assert "does not embed as 'voyage-3'" in caplog.text


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (401, "refuses the key"),
        (301, "sends clients to another address https://other (301)"),
        (405, "has no list of models (405)"),
        (503, "does not tell its models yet (503)"),
        (b"<html>", "answers, and not with a list"),
        (b'{"data":[]}', "lists no models"),
    ],
)
def test_why_a_server_tells_no_models_is_said(answer: bytes | int, says: str) -> None:
    async def work() -> None:
        async with ScriptedServer().running() as server, aiohttp.ClientSession() as session:
            assert [model.id for model in await served_models(session, server.url, None)] == ["m"]
            server.listing = answer
            with pytest.raises(NoListError, match="^" + re.escape(says)):
                await served_models(session, server.url, None)

    run(work())
