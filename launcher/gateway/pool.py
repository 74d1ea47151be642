"""The servers behind one model's name: whose turn it is to be asked, and which of them is."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Final

import msgspec

from launcher.gateway.calls import Caller
from launcher.gateway.cutting import Cuts
from launcher.gateway.identity import Identity, space_of
from launcher.gateway.inputs import Checkpoint
from launcher.gateway.joining import Joiner
from launcher.gateway.problems import RequestError
from launcher.gateway.replica import (
    BUSY,
    DOWN,
    ELSEWHERE,
    TIMEOUT,
    Made,
    Part,
    Replica,
    Seen,
    Source,
)
from launcher.gateway.request import Priority
from launcher.gateway.turns import Turns

_AGAIN_S: Final = 0.05
"""Between two looks at servers that are down."""
_LOG: Final = logging.getLogger("qlaunch.gateway")


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
        self._turns = Turns(limits.most_open * max(1, len(self.replicas)))
        self._spaces: dict[Identity, bytes] = {}
        self._odd: set[str] = set()
        self._identity: Identity | None = None
        self._joiner: Joiner | None = None

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
        return next((seen.checkpoint for seen in self._alike() if seen.checkpoint), None)

    def cuts(self) -> Cuts | None:
        """How its vectors are cut, by a server of the identity that counts."""
        return next((seen.cuts for seen in self._alike() if seen.cuts), None)

    def guarded(self) -> bool:
        """Whether its servers take OpenAI's fields alone."""
        return any(seen.guarded for seen in self._alike())

    def sizes(self) -> frozenset[int] | None:
        """The only `dimensions` that may be asked for; None: not known, or all that it has."""
        identity = self.identity()
        if identity is None or identity.dimensions is None:
            return None
        only = frozenset({identity.dimensions})
        if any(seen.whole for seen in self._alike()):
            return only
        cuts = self.cuts()
        return None if cuts is None or cuts.sizes is None else cuts.sizes | only

    def _alike(self) -> Iterator[Seen]:
        """What is known of the servers of the identity that counts."""
        identity = self.identity()
        seen = (replica.source.look() for replica in self.replicas)
        return (one for one in seen if one.identity == identity)

    def add(self, replica: Replica) -> None:
        """One more server."""
        if self.replicas:  # without one there are the turns of one
            self._turns.add(self.limits.most_open)
        self.replicas.append(replica)

    def rotate(self, sources: Sequence[Source]) -> list[Replica]:
        """Have exactly these servers from now on; the others finish their calls, and are returned.

        One that comes does not go before the others until it has had as many calls.
        """
        before = {id(replica.source): replica for replica in self.replicas}
        most = max((replica.turn for replica in self.replicas), default=0)
        now = [
            before.pop(id(one)) if id(one) in before else Replica(one, ahead=most)
            for one in sources
        ]
        # Without a server a call still gets its turn, to be told so.
        more = max(1, len(now)) - max(1, len(self.replicas))
        self._turns.add(self.limits.most_open * more)
        self.replicas[:] = now
        return list(before.values())

    def ready(self) -> bool:
        """Whether a server is there that is not known to fail."""
        return any(
            seen.resting or (seen.url and replica.breaker.state != "open")
            for replica in self.replicas
            if (seen := replica.source.look())
        )

    @property
    def waiting(self) -> int:
        """Calls that wait for their turn."""
        riding = 0 if self._joiner is None else self._joiner.riding
        return self.under_way - sum(self._turns.open.values()) - riding

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

    async def fetch(self, caller: Caller, part: Part) -> tuple[list[bytes], int]:
        """The vectors of a part, made now, and the tokens read; another server where one fails.

        One call of those that were announced.

        Raises:
            RequestError: no server would or could.
            IdentityChangedError: the servers do not make vectors of the part's space any more.
        """
        try:
            if self._tells_tokens() and (joiner := self._joiner_of(caller)).takes(part):
                made = await joiner.ask(part)
            else:
                made = await self._in_turn(caller, part)
        finally:
            self.under_way -= 1
        return made.vectors, made.tokens

    def _tells_tokens(self) -> bool:
        """Whether each request of a joined call can be told its own tokens."""
        told = [replica.tells_tokens for replica in self.replicas]
        return True in told and False not in told

    def _joiner_of(self, caller: Caller) -> Joiner:
        if self._joiner is None:
            self._joiner = Joiner(
                partial(self._in_turn, caller),
                most_inputs=self.limits.call_inputs,
                most_bytes=self.limits.call_bytes,
            )
        self._joiner.servers = len(self.replicas)
        return self._joiner

    async def _in_turn(self, caller: Caller, part: Part) -> Made:
        await self._turns.take(part.priority)
        try:
            return await self._held(partial(self._from_any, caller, part), part.space)
        finally:
            self._turns.give(part.priority)

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
        for replica in self.replicas:
            replica.source.want()
        while time.monotonic() < until:
            await asyncio.sleep(_AGAIN_S)
            if any(self._fits(replica, space) for replica in self.replicas):
                return True
            if not any(replica.source.look().coming for replica in self.replicas):
                return False
        return False

    async def _from_any(self, caller: Caller, part: Part) -> Made:
        problem: RequestError | None = None
        asked: set[Replica] = set()
        for _ in range(max(2, len(self.replicas))):
            replica = self._choose(part.space, asked)
            if replica is None:
                break
            asked.add(replica)
            try:
                made = await replica.ask(caller, part, self.limits.timeout_s)
            except RequestError as failed:
                problem = failed
                if failed.status == BUSY:  # it answers; another may have room
                    elsewhere = any(
                        self._fits(r, part.space) for r in self.replicas if r not in asked
                    )
                else:
                    elsewhere = failed.status in ELSEWHERE and failed.code != TIMEOUT
                if not elsewhere:
                    raise
            else:
                if part.space is not None and self._now(replica) != part.space:
                    raise IdentityChangedError
                return made
        if problem is not None:
            raise problem
        if part.space is not None and self.space() != part.space:
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
        chosen = min(rested, key=lambda r: (r.open, r.turn), default=None)
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

    def _now(self, replica: Replica) -> bytes | None:
        identity = replica.source.look().identity
        return None if identity is None else self._space_of(identity)
