"""Servers that embed: which to ask, what its refusal means, and how long to wait for it."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import msgspec

from launcher.bench.load_client import AskError, Client
from launcher.bench.target import Target
from launcher.corpus.records import Vector
from launcher.errors import ExitCode, QlaunchError

TELL_S = 3.0
"""Without an answer, until somebody is told why nothing goes on."""
CALL_LIMIT_S: Final = 300.0
"""Longest wait for one call: many long texts on a slow CPU."""
TRIES: Final = (3, 5)
"""Calls for the same texts, and for one text, that may fail in a server that can be reached before
they are to blame."""
REST_S = (0.2, 10.0)
"""After a failure a server is left alone, twice as long every time, from and to these."""
FAILED_REST_S: Final = 1.0
"""But no longer where it answered: it may be the text."""
_OF_SERVER: Final = {
    401: "give the key that it takes: --api-key-file FILE",
    403: "give the key that it takes: --api-key-file FILE",
    404: "name a model that it serves: --model NAME; and look at the address",
    405: "look at the address: it does not serve /v1/embeddings",
}
"""Statuses of a server that will not do, whatever it is asked, and what helps."""
_LOOK: Final = "look at the service, then run the same command again to go on"
_LATER: Final = frozenset({408, 425, 429, 503})
"""Statuses of a server that is busy, or not ready yet."""

Refresh = Callable[[], str | None]
"""The address of a service now, None while it starts again; an error where it is over."""


class RefusedError(Exception):
    """A server that works will not embed these texts; the message is what it said."""


class FailedError(Exception):
    """Servers failed on these texts again and again; the message is what the last one said."""


@dataclass
class Endpoint:
    """One server."""

    name: str
    """For people: a service or an address."""
    url: str
    """`http://host:port/v1`."""
    model: str
    """The name to send."""
    key: str | None = None
    refresh: Refresh | None = None
    """Looks where the service is now; None of a bare address."""
    out: str | None = None
    """Why it is not asked any more."""
    calls: int = 0
    """Under way."""
    rests: int = 0
    """Failures in a row."""
    awake: float = 0.0
    """When it may be asked again (`time.monotonic`)."""
    client: Client | None = field(default=None, repr=False)


class Pool:
    """Servers of one model; an asynchronous context.

    Args:
        endpoints: the servers.
        connections: calls at once to each.
        dimensions: what to cut vectors to; None asks for all of them.
        patience_s: how long none of them may answer.
        say: told when none has answered for a while.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        connections: int,
        dimensions: int | None,
        patience_s: float,
        say: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.endpoints = list(endpoints)
        self._connections = connections
        self._dimensions = dimensions
        self._patience_s = patience_s
        self._say = say
        self._told = self._ever = False
        self._answered = time.monotonic()
        self._last_error = "none has been asked"
        self._over: QlaunchError | None = None
        """What the last service that is over said of itself; or what helps where none ever did."""

    async def __aenter__(self) -> Self:
        self._answered = time.monotonic()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for endpoint in self.endpoints:
            await self._drop(endpoint)

    async def ask(
        self,
        texts: Sequence[str],
        only: Endpoint | None = None,
        patience_s: float | None = None,
    ) -> tuple[list[Vector], int | None]:
        """Vectors of `texts` in their order, and the tokens counted.

        Args:
            texts: of one call.
            only: the server to ask; None asks any.
            patience_s: how long it may be away; None takes the pool's.

        Raises:
            RefusedError: a server says that it will not take these texts.
            FailedError: calls failed `TRIES` times, by servers that could be reached.
            QlaunchError: `embed_failed` (exit 1): no server will do; (8) none answered for as
                long as it may take; a service's own, where the last of them is over.
        """
        failures = 0
        while True:
            endpoint = await self._free(
                only, self._patience_s if patience_s is None else patience_s
            )
            endpoint.calls += 1
            try:
                return await self._call(endpoint, texts)
            except AskError as error:
                self._last_error = f"{endpoint.name}: {error}"
                status = error.status
                if status in _OF_SERVER:
                    endpoint.out = str(error)
                    if not self._ever:
                        self._over = self._none_will_do(_OF_SERVER[status])
                elif status is not None and 400 <= status < 500 and status not in _LATER:
                    self._answers(endpoint)
                    raise RefusedError(str(error)) from None
                else:
                    failed = not error.refused and status not in _LATER
                    failures += failed
                    await self._rest(endpoint, FAILED_REST_S if failed else REST_S[1])
            finally:
                endpoint.calls -= 1
            if failures >= TRIES[len(texts) == 1]:
                raise FailedError(self._last_error)

    async def _call(
        self, endpoint: Endpoint, texts: Sequence[str]
    ) -> tuple[list[Vector], int | None]:
        client = await self._client(endpoint)
        data, _ = await client.send(self._body(endpoint, texts))
        vectors, tokens = client.vectors(data, len(texts))
        self._answers(endpoint)
        return [each if isinstance(each, array) else array("f", each) for each in vectors], tokens

    def _body(self, endpoint: Endpoint, texts: Sequence[str]) -> bytes:
        body: dict[str, object] = {
            "model": endpoint.model,
            "input": texts,
            "encoding_format": "base64",
        }
        if self._dimensions is not None:
            body["dimensions"] = self._dimensions
        return msgspec.json.encode(body)

    def _answers(self, endpoint: Endpoint) -> None:
        endpoint.rests = 0
        self._answered, self._told, self._ever = time.monotonic(), False, True

    async def _client(self, endpoint: Endpoint) -> Client:
        if endpoint.client is None:
            target = Target(
                mode=endpoint.name,
                url=endpoint.url,
                model=endpoint.model,
                dimensions=self._dimensions,
                key=endpoint.key,
            )
            # All calls may go to one server while the others are away.
            connections = self._connections * len(self.endpoints)
            endpoint.client = Client(target, connections, CALL_LIMIT_S)
            await endpoint.client.__aenter__()
        return endpoint.client

    @staticmethod
    async def _drop(endpoint: Endpoint) -> None:
        client, endpoint.client = endpoint.client, None
        if client is not None:
            await client.__aexit__(None, None, None)

    async def _free(self, only: Endpoint | None, patience_s: float) -> Endpoint:
        """The server with the fewest calls that is not resting."""
        while True:
            usable = [
                each for each in (self.endpoints if only is None else [only]) if each.out is None
            ]
            if not usable:
                raise self._over or self._none_will_do(_LOOK, ExitCode.UNEXPECTED)
            now = time.monotonic()
            awake = [each for each in usable if each.awake <= now]
            if awake:
                return min(awake, key=lambda each: each.calls)
            if now - self._answered > patience_s:
                raise QlaunchError(
                    f"no endpoint has answered for {patience_s:.0f} s: {self._last_error}",
                    code="embed_failed",
                    exit_code=ExitCode.TIMEOUT,
                    fix=_LOOK,
                )
            if now - self._answered > TELL_S and not self._told:
                self._told = True
                self._say(f"{self._last_error}; asking again for up to {patience_s:.0f} s (--wait)")
            await asyncio.sleep(max(0.01, min(each.awake for each in usable) - now))

    def _none_will_do(self, fix: str, exit_code: ExitCode = ExitCode.USAGE) -> QlaunchError:
        text = f"no endpoint will do: {self._last_error}"
        return QlaunchError(text, code="embed_failed", exit_code=exit_code, fix=fix)

    async def _rest(self, endpoint: Endpoint, most: float) -> None:
        """Leave a server alone for a while, and look where its service is by then."""
        now = time.monotonic()
        if endpoint.awake > now:
            return  # another call of the same moment has seen to it
        endpoint.awake = now + min(most, REST_S[0] * 2**endpoint.rests)
        endpoint.rests = min(endpoint.rests + 1, 16)
        if endpoint.refresh is None:
            return
        try:
            url = await asyncio.to_thread(endpoint.refresh)
        except QlaunchError as error:
            endpoint.out, self._over = error.message, error
            return
        if url is not None and url != endpoint.url:
            # Calls under way on the old address end by themselves: the server there is gone.
            endpoint.url = url
            await self._drop(endpoint)
