"""One server: what is known of it, how it is asked, and what of its answers is believed."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from launcher.gateway.answer import Expected, read_answer
from launcher.gateway.breaker import Breaker
from launcher.gateway.calls import Caller, UnreachableError
from launcher.gateway.cutting import Cuts
from launcher.gateway.identity import Identity, Input
from launcher.gateway.inputs import Checkpoint
from launcher.gateway.plain_http import Answer
from launcher.gateway.problems import (
    OtherLengthError,
    RequestError,
    UpstreamRefusalError,
    WrongAnswerError,
)
from launcher.gateway.request import EmbeddingCall, Priority
from launcher.network import retry_after

DOWN: Final = "upstream_down"
TIMEOUT: Final = "upstream_timeout"
_LONGEST_REST_S: Final = 86_400
REFUSAL_BYTES: Final = 64 << 10
TOKENS: Final = "x-qlaunch-tokens"
"""Header of an answer: the tokens of each input, which `usage` tells for all together."""
BUSY: Final = 429
ELSEWHERE: Final = frozenset({500, 502, 503, 504})
"""Statuses after which another server is asked: the call changes nothing, it may be repeated."""
_LOG: Final = logging.getLogger("qlaunch.gateway")


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A server as it is known now."""

    url: str | None
    """`http://host:port/v1`; None: it does not run."""
    key: str | None = None
    """Its API key."""
    identity: Identity | None = None
    """None: unknown, so nothing of it may be kept."""
    checkpoint: Checkpoint | None = None
    """None: the model's files are not known."""
    cuts: Cuts | None = None
    """How shorter vectors are made of whole ones; None: by the server alone."""
    guarded: bool = False
    """Whether our guard stands before it, which takes OpenAI's fields alone."""
    whole: bool = False
    """Whether it refuses to cut vectors."""
    coming: bool = False
    """Whether somebody starts it, or keeps it running: waiting for it is worth while."""
    resting: bool = False
    """Whether it is stopped on purpose, until a call waits for it."""
    base64: bool = True
    """Whether its base64 is believed."""


class Source(Protocol):
    """Where the knowledge of a server comes from."""

    name: str
    """For people: a service's name or a URL."""
    model: str
    """What the server calls the model."""

    def look(self) -> Seen:
        """What is known now; quick, raises nothing."""
        ...

    def want(self) -> None:
        """Be told that a call waits for it."""
        ...

    def suspect(self) -> None:
        """Be told that a connection failed: another server may answer there next."""
        ...


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs of a request that are made by one call."""

    inputs: Sequence[Input]
    call: EmbeddingCall
    space: bytes | None
    """That their vectors must be of; None: of any."""
    request_id: str

    @property
    def priority(self) -> Priority:
        """Of the request."""
        return self.call.priority or "interactive"


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a call."""

    vectors: list[bytes]
    """float32, little-endian, in the order of the inputs."""
    tokens: int
    """Read for all of them."""
    each: tuple[int, ...] | None = None
    """Read for each of them; None: the server does not tell."""


class Replica:
    """One server of those that make the same vectors."""

    def __init__(self, source: Source, *, ahead: int = 0) -> None:
        """`ahead`: calls that it counts as having had, where its turn is decided."""
        self.source = source
        self.open = 0
        """Calls under way."""
        self.calls = 0
        self._ahead = ahead
        self.failures = 0
        self.breaker = Breaker()
        self.base64 = True
        """Whether it is asked for base64: a quarter of the bytes."""
        self.tells_tokens: bool | None = None
        """Whether its last answer told the tokens of each input; None: it has not answered."""

    @property
    def turn(self) -> int:
        """Of servers with as many calls under way the one with the lowest is asked."""
        return self.calls + self._ahead

    async def ask(self, caller: Caller, part: Part, timeout_s: float) -> Made:
        """The vectors of a part, made now.

        Raises:
            RequestError: it refused, cannot be reached, or answered wrongly.
        """
        seen = self.source.look()
        self.open += 1
        self.calls += 1
        try:
            answer = await self._post(caller, seen, part, timeout_s)
            made = None if answer.status != 200 else self._read(answer, part, seen.identity)
        except WrongAnswerError as error:
            _LOG.warning("%s answered wrongly: %s", self.source.name, error)
            self._failed()
            if isinstance(error, OtherLengthError) and part.call.dimensions is None:
                self.source.suspect()  # it was replaced without a connection that failed
            raise RequestError(
                502, "upstream_wrong", f"the server answered wrongly: {error}"
            ) from None
        except RequestError:
            self._failed()
            raise
        finally:
            self.open -= 1
        if made is None:
            raise self._refusal(answer)
        self.breaker.success()
        return made

    def _read(self, answer: Answer, part: Part, identity: Identity | None) -> Made:
        expected = _expected(len(part.inputs), part.call, identity)
        vectors, tokens = read_answer(answer.body, expected)
        each = _each(answer.headers.get(TOKENS), expected.count, tokens)
        self.tells_tokens = each is not None
        return Made(vectors=vectors, tokens=tokens, each=each)

    def _failed(self) -> None:
        self.failures += 1
        if self.breaker.failure():
            _LOG.warning("%s is not asked for %g s", self.source.name, self.breaker.rest_s)

    def _refusal(self, answer: Answer) -> RequestError:
        status = answer.status
        if status in ELSEWHERE:
            self._failed()
        else:
            self.breaker.success()
        if status in (401, 403):
            _LOG.warning("%s refused the gateway's key (%d)", self.source.name, status)
            return RequestError(502, "upstream_denied", "the server refused the gateway's key")
        if not 400 <= status < 600:
            return RequestError(502, "upstream_wrong", f"the server answered with status {status}")
        retry = None
        if status in (BUSY, 503):
            asked = retry_after.seconds(answer.headers.get("retry-after"))
            retry = min(asked or 1, _LONGEST_REST_S)
        return UpstreamRefusalError(status, answer.body[:REFUSAL_BYTES], retry_after=retry)

    async def _post(self, caller: Caller, seen: Seen, part: Part, timeout_s: float) -> Answer:
        """The answer to one call; without base64 where the server does not know it."""
        for encoding in ("base64", "float") if self.base64 and seen.base64 else ("float",):
            body = upstream_body(self.source.model, part.inputs, part.call, encoding)
            answer = await self._send(caller, seen, body, part.request_id, timeout_s)
            refused = answer.status in (400, 422) and encoding == "base64"
            if refused and b"encoding_format" in answer.body:
                continue
            # A refusal may name the field among others: only an answer tells that it was the cause.
            if encoding == "float" and answer.status == 200 and seen.base64:
                self.base64 = False
            return answer
        raise AssertionError  # the last encoding returns

    async def _send(
        self, caller: Caller, seen: Seen, body: bytes, request_id: str, timeout_s: float
    ) -> Answer:
        headers = {"Content-Type": "application/json", "X-Request-Id": request_id}
        if seen.key:
            headers["Authorization"] = f"Bearer {seen.key}"
        begun = time.monotonic()
        try:
            return await caller.post(f"{seen.url}/embeddings", headers, body, timeout_s)
        except TimeoutError as error:
            after = time.monotonic() - begun
            text = f"the server did not answer within {after:.0f} s"
            raise RequestError(504, TIMEOUT, text) from error
        except UnreachableError as error:
            self.source.suspect()
            text = f"the server cannot be reached ({error})"
            raise RequestError(503, DOWN, text, retry_after=2) from error


def _expected(count: int, call: EmbeddingCall, identity: Identity | None) -> Expected:
    whole = None if identity is None else identity.dimensions
    return Expected(
        count=count,
        dimensions=call.dimensions or whole,
        normalized=bool(identity and identity.normalize) and call.dimensions is None,
    )


def _each(told: str | None, count: int, tokens: int) -> tuple[int, ...] | None:
    """The tokens of each input, where the header is right about them."""
    words = (told or "").split(",")
    if len(words) != count or not all(word.isdecimal() and len(word) < 10 for word in words):
        return None
    each = tuple(map(int, words))
    return each if sum(each) == tokens else None


def upstream_body(model: str, inputs: Sequence[Input], call: EmbeddingCall, encoding: str) -> bytes:
    """The body of a call to a server: the same request, of these inputs alone."""
    fields: dict[str, object] = dict(call.extra)
    fields |= {"model": model, "input": inputs, "encoding_format": encoding}
    if call.dimensions is not None:
        fields["dimensions"] = call.dimensions
    if call.user is not None:
        fields["user"] = call.user
    return msgspec.json.encode(fields)
