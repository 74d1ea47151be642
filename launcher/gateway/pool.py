"""The servers behind one model's name: which to ask, and what of their answers to believe."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from launcher.gateway.answer import Expected, read_answer
from launcher.gateway.breaker import Breaker
from launcher.gateway.identity import Identity, Input, space_of
from launcher.gateway.inputs import Checkpoint
from launcher.gateway.problems import RequestError, UpstreamRefusalError, WrongAnswerError
from launcher.gateway.request import EmbeddingCall, Priority
from launcher.gateway.turns import Turns

if TYPE_CHECKING:
    import aiohttp

ANSWER_BYTES: Final = 256 << 20
"""Most bytes of one answer of a server."""
REFUSAL_BYTES: Final = 64 << 10
DOWN: Final = "upstream_down"
_AGAIN_S: Final = 0.05
"""Between two looks at servers that are down."""
_ELSEWHERE: Final = frozenset({500, 502, 503, 504})
"""Statuses after which another server is asked: the call changes nothing, it may be repeated."""
Made = tuple[list[bytes], int]
"""Vectors of a call's inputs, and the tokens that were read for them."""
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
    coming: bool = False
    """Whether somebody starts it, or keeps it running: waiting for it is worth while."""


class Source(Protocol):
    """Where the knowledge of a server comes from."""

    name: str
    """For people: a service's name or a URL."""
    model: str
    """What the server calls the model."""

    def look(self) -> Seen:
        """What is known now; quick, raises nothing."""
        ...

    def suspect(self) -> None:
        """Be told that a connection failed: another server may answer there next."""
        ...


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of servers at once."""

    most_open: int = 32
    """Calls to one server at once."""
    most_waiting: int = 256
    """Calls that wait for their turn; beyond, requests are refused with 429."""
    call_inputs: int = 64
    """Inputs of one call to a server."""
    call_bytes: int = 1 << 20
    """Bytes of text of one call to a server."""
    timeout_s: float = 120.0
    hold_s: float = 0.0
    """Longest that a call waits for a server that is being started again."""


class IdentityChangedError(Exception):
    """Another model has come behind the name while it was asked."""


class Replica:
    """One server."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.open = 0
        """Calls under way."""
        self.calls = 0
        self.failures = 0
        self.breaker = Breaker()
        self.base64 = True
        """Whether it is asked for base64: a quarter of the bytes."""


class Group:
    """The servers of one model, which all make the same vectors."""

    def __init__(
        self, name: str, replicas: Sequence[Replica], secret: bytes, limits: Limits
    ) -> None:
        self.name = name
        self.replicas = list(replicas)
        self.limits = limits
        self.under_way = 0
        """Calls that were announced and have not ended."""
        self._secret = secret
        self._turns = Turns(limits.most_open * len(self.replicas))
        self._spaces: dict[Identity, bytes] = {}
        self._odd: set[str] = set()
        self._identity: Identity | None = None

    def space(self) -> bytes | None:
        """The space of the model as it is now; None where it is unknown: nothing is kept then."""
        identity = self.identity()
        return None if identity is None else self._space_of(identity)

    def identity(self) -> Identity | None:
        """Of the first server that has one; servers that differ from it are not asked.

        As long as a server has the identity that counted before, it counts.
        """
        known = [seen.identity for r in self.replicas if (seen := r.source.look()).identity]
        if self._identity not in known:
            self._identity = known[0] if known else None
        return self._identity

    def checkpoint(self) -> Checkpoint | None:
        """What is known of the model's files, by a server of the identity that counts."""
        identity = self.identity()
        seen = (replica.source.look() for replica in self.replicas)
        known = (one.checkpoint for one in seen if one.identity == identity and one.checkpoint)
        return next(known, None)

    def add(self, replica: Replica) -> None:
        """One more server."""
        self.replicas.append(replica)
        self._turns.add(self.limits.most_open)

    def ready(self) -> bool:
        """Whether a server is there that is not known to fail."""
        return any(r.source.look().url and r.breaker.state != "open" for r in self.replicas)

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn."""
        return self.under_way - sum(self._turns.open.values())

    def announce(self, calls: int, priority: Priority) -> None:
        """Take so many calls into the queue, of which `fetch` then makes each.

        A request that finds nobody waiting is let in whatever its size: it could never be else.

        Raises:
            RequestError: 429 where the queue would grow beyond its bound, which is half of it for
                bulk; with the time after which to try again.
        """
        most = self.limits.most_waiting // (1 if priority == "interactive" else 2)
        if self.waiting and self.waiting + calls - self._turns.free_for(priority) > most:
            raise RequestError(429, "busy", "too many requests wait for this model", retry_after=1)
        self.under_way += calls

    async def fetch(
        self,
        session: aiohttp.ClientSession,
        inputs: Sequence[Input],
        call: EmbeddingCall,
        space: bytes | None,
        request_id: str,
    ) -> tuple[list[bytes], int]:
        """The vectors of `inputs`, made now, and the tokens read; another server where one fails.

        One call of those that were announced.

        Raises:
            RequestError: no server would or could.
            IdentityChangedError: the servers do not make vectors of `space` any more.
        """
        priority = call.priority or "interactive"
        ask = partial(self._from_any, session, inputs, call, space, request_id)
        try:
            await self._turns.take(priority)
            try:
                return await self._held(ask, space)
            finally:
                self._turns.give(priority)
        finally:
            self.under_way -= 1

    async def _held(self, ask: Callable[[], Awaitable[Made]], space: bytes | None) -> Made:
        """What `ask` gives, again and again while every server is down and one of them is coming.

        A restart, rolling or after a death, costs the request time and is no error: the call
        changes nothing, so that nobody can tell whether a server was asked twice.
        """
        until = time.monotonic() + self.limits.hold_s
        while True:
            try:
                return await ask()
            except RequestError as failed:
                if failed.code != DOWN or not await self._comes(space, until):
                    raise

    async def _comes(self, space: bytes | None, until: float) -> bool:
        """Wait until a server can be asked; False where none will be, or not in time."""
        while time.monotonic() < until:
            await asyncio.sleep(_AGAIN_S)
            if not any(replica.source.look().coming for replica in self.replicas):
                return False
            if any(self._fits(replica, space) for replica in self.replicas):
                return True
        return False

    async def _from_any(
        self,
        session: aiohttp.ClientSession,
        inputs: Sequence[Input],
        call: EmbeddingCall,
        space: bytes | None,
        request_id: str,
    ) -> tuple[list[bytes], int]:
        problem: RequestError | None = None
        asked: set[Replica] = set()
        for _ in range(max(2, len(self.replicas))):
            replica = self._choose(space, asked)
            if replica is None:
                break
            asked.add(replica)
            try:
                return await self._from_one(replica, session, inputs, call, space, request_id)
            except RequestError as failed:
                problem = failed
                if failed.status not in _ELSEWHERE or failed.code == "upstream_timeout":
                    raise
        if problem is not None:
            raise problem
        if space is not None and self.space() != space:
            raise IdentityChangedError
        raise RequestError(503, DOWN, "no server of this model is running", retry_after=2)

    def _choose(self, space: bytes | None, asked: set[Replica]) -> Replica | None:
        """The one with the fewest calls under way; one that rests only where no other is left.

        One that was asked comes again only where it is the only one: its connection may have been
        closed while it lay idle.
        """
        usable = [r for r in self.replicas if self._fits(r, space)]
        fresh = [r for r in usable if r not in asked]
        if not fresh and len(usable) == 1 and len(asked) == 1:
            fresh = usable
        rested = [r for r in fresh if r.breaker.would_allow()] or fresh
        chosen = min(rested, key=lambda r: (r.open, r.calls), default=None)
        if chosen is not None:
            chosen.breaker.allows()  # takes the turn, where it is tried again after a rest
        return chosen

    def _fits(self, replica: Replica, space: bytes | None) -> bool:
        seen = replica.source.look()
        if seen.url is None:
            return False
        if space is None:
            return True
        fits = seen.identity is not None and self._space_of(seen.identity) == space
        name = replica.source.name
        if seen.identity is not None and not fits and name not in self._odd:
            self._odd.add(name)
            _LOG.warning("%s is not asked: its vectors differ from those of %s", name, self.name)
        return fits

    def _space_of(self, identity: Identity) -> bytes:
        space = self._spaces.get(identity)
        if space is None:
            if len(self._spaces) > 64:
                self._spaces.clear()
            space = self._spaces[identity] = space_of(self._secret, identity)
        return space

    async def _from_one(
        self,
        replica: Replica,
        session: aiohttp.ClientSession,
        inputs: Sequence[Input],
        call: EmbeddingCall,
        space: bytes | None,
        request_id: str,
    ) -> tuple[list[bytes], int]:
        seen = replica.source.look()
        replica.open += 1
        replica.calls += 1
        try:
            status, body = await self._post(replica, seen, session, inputs, call, request_id)
            if status == 200:
                answer = read_answer(body, self._expected(len(inputs), call, seen.identity))
        except WrongAnswerError as error:
            _LOG.warning("%s answered wrongly: %s", replica.source.name, error)
            self._failed(replica)
            raise RequestError(
                502, "upstream_wrong", f"the server answered wrongly: {error}"
            ) from None
        except RequestError:
            self._failed(replica)
            raise
        finally:
            replica.open -= 1
        if status != 200:
            raise self._refusal(replica, status, body)
        replica.breaker.success()
        if space is not None and self._now(replica) != space:
            raise IdentityChangedError
        return answer

    def _now(self, replica: Replica) -> bytes | None:
        identity = replica.source.look().identity
        return None if identity is None else self._space_of(identity)

    @staticmethod
    def _expected(count: int, call: EmbeddingCall, identity: Identity | None) -> Expected:
        whole = None if identity is None else identity.dimensions
        return Expected(
            count=count,
            dimensions=call.dimensions or whole,
            normalized=bool(identity and identity.normalize) and call.dimensions is None,
        )

    def _failed(self, replica: Replica) -> None:
        replica.failures += 1
        if replica.breaker.failure():
            _LOG.warning("%s is not asked for %g s", replica.source.name, replica.breaker.rest_s)

    def _refusal(self, replica: Replica, status: int, body: bytes) -> RequestError:
        if status in _ELSEWHERE:
            self._failed(replica)
        else:
            replica.breaker.success()
        if status in (401, 403):
            _LOG.warning("%s refused the gateway's key (%d)", replica.source.name, status)
            return RequestError(502, "upstream_denied", "the server refused the gateway's key")
        if not 400 <= status < 600:
            return RequestError(502, "upstream_wrong", f"the server answered with status {status}")
        retry = 1 if status in (429, 503) else None
        return UpstreamRefusalError(status, body[:REFUSAL_BYTES], retry_after=retry)

    async def _post(
        self,
        replica: Replica,
        seen: Seen,
        session: aiohttp.ClientSession,
        inputs: Sequence[Input],
        call: EmbeddingCall,
        request_id: str,
    ) -> tuple[int, bytes]:
        """Status and body of one call; without base64 where the server does not know it."""
        for encoding in ("base64", "float") if replica.base64 else ("float",):
            body = upstream_body(replica.source.model, inputs, call, encoding)
            status, answer = await self._send(replica, seen, session, body, request_id)
            if status in (400, 422) and encoding == "base64" and b"encoding_format" in answer:
                replica.base64 = False
                continue
            return status, answer
        raise AssertionError  # the last encoding returns

    async def _send(
        self,
        replica: Replica,
        seen: Seen,
        session: aiohttp.ClientSession,
        body: bytes,
        request_id: str,
    ) -> tuple[int, bytes]:
        import aiohttp

        headers = {"Content-Type": "application/json", "X-Request-Id": request_id}
        if seen.key:
            headers["Authorization"] = f"Bearer {seen.key}"
        begun = time.monotonic()
        try:
            async with session.post(
                f"{seen.url}/embeddings",
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=self.limits.timeout_s, connect=5.0),
                allow_redirects=False,
            ) as response:
                return response.status, await _bounded(response)
        except TimeoutError as error:
            after = time.monotonic() - begun
            text = f"the server did not answer within {after:.0f} s"
            raise RequestError(504, "upstream_timeout", text) from error
        except aiohttp.ClientError as error:
            replica.source.suspect()
            text = f"the server cannot be reached ({type(error).__name__})"
            raise RequestError(503, DOWN, text, retry_after=2) from error


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > ANSWER_BYTES:
            raise WrongAnswerError(f"more than {ANSWER_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)


def upstream_body(model: str, inputs: Sequence[Input], call: EmbeddingCall, encoding: str) -> bytes:
    """The body of a call to a server: the same request, of these inputs alone."""
    fields: dict[str, object] = dict(call.extra)
    fields |= {"model": model, "input": inputs, "encoding_format": encoding}
    if call.dimensions is not None:
        fields["dimensions"] = call.dimensions
    if call.user is not None:
        fields["user"] = call.user
    return msgspec.json.encode(fields)
