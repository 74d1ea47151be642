"""A batch, split and put together again: what is kept is read, what is missing is made once.

Of one input that several requests miss at the same time, one asks the server and the others wait
for it (single flight). An input that occurs twice in a batch is made once. Vectors are kept and
shared only under keys of the space that their server had before and after it was asked.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from launcher.gateway.calls import Caller
from launcher.gateway.cutting import cut
from launcher.gateway.identity import SPACE_BYTES, Input, input_key
from launcher.gateway.inputs import InputRules, Preparation
from launcher.gateway.joining import bytes_of
from launcher.gateway.pool import Group, IdentityChangedError, Limits
from launcher.gateway.problems import RequestError, UpstreamRefusalError
from launcher.gateway.replica import Part
from launcher.gateway.request import DROP, KNOWN, EmbeddingCall, Priority
from launcher.gateway.store import Store

_Shorter = Callable[[list[bytes]], list[bytes]]
_ATTEMPTS: Final = 3
"""Times that a request begins anew because the model behind its name changed."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The vectors of a request, and where they came from."""

    vectors: list[bytes]
    """float32, little-endian, in the order of the inputs."""
    hits: int
    """Inputs that were in the cache."""
    shared: int
    """Inputs that another request was already having made."""
    made: int
    """Inputs that a server was asked for; one that occurs twice counts once."""
    tokens: int
    """Read by the server for this request."""
    cut: int = 0
    """Inputs that were too long and were cut."""


class Resolver:
    """Finds or makes vectors."""

    def __init__(
        self,
        caller: Caller,
        secret: bytes,
        store: Store | None,
        rules: InputRules | None = None,
    ) -> None:
        """`store` None: nothing is kept; requests share what is being made all the same."""
        self._preparation = Preparation(rules or InputRules())
        self._caller = caller
        self._secret = secret
        self._store = store
        self._flights: dict[Priority, dict[bytes, asyncio.Future[bytes | None]]] = {
            "interactive": {},
            "bulk": {},
        }
        self._tasks: set[asyncio.Task[int]] = set()

    async def resolve(
        self, group: Group, call: EmbeddingCall, request_id: str, *, past: bool = False
    ) -> Outcome:
        """The vectors of a call; `past` the cache: each input is made now, for this call alone.

        Raises:
            RequestError: one of them cannot be had; then none is answered.
        """
        for _ in range(_ATTEMPTS):
            space = None if past else group.space()
            asked = _taken(call, group)
            whole, shorter = (asked, None) if past else _whole(asked, group)
            prepared = await self._preparation.prepare(whole, group.checkpoint())
            try:
                outcome = await self._resolve(group, prepared.call, space, request_id, past=past)
                vectors = outcome.vectors if shorter is None else shorter(outcome.vectors)
                return msgspec.structs.replace(outcome, vectors=vectors, cut=prepared.cut)
            except IdentityChangedError:
                continue
        raise RequestError(
            503, "upstream_changing", "the model behind this name is changing", retry_after=2
        )

    async def drain(self) -> None:
        """Wait for all calls to servers that are under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _resolve(
        self,
        group: Group,
        call: EmbeddingCall,
        space: bytes | None,
        request_id: str,
        *,
        past: bool,
    ) -> Outcome:
        keys = _own_keys(len(call.inputs)) if past else self._keys(call, space)
        inputs = dict(zip(keys, call.inputs, strict=True))
        known: dict[bytes, bytes] = {}
        if space is not None and self._store is not None:
            known = await self._store.read(list(inputs))
        hits = sum(key in known for key in keys)
        missing = [key for key in inputs if key not in known]
        if not missing:
            return Outcome(
                vectors=[known[key] for key in keys], hits=hits, shared=0, made=0, tokens=0
            )
        work = _Work(group, call, space, request_id, keys, inputs)
        joined = self._under_way(missing, call.priority)
        owned = [key for key in missing if key not in joined]
        tokens = await self._make(work, owned, known)
        shared = await _landed(joined, known)
        # What failed for another request may be possible for this one: its own try decides.
        again = [key for key in joined if key not in known]
        tokens += await self._make(work, again, known)
        return Outcome(
            vectors=[known[key] for key in keys],
            hits=hits,
            shared=shared,
            made=len(owned) + len(again),
            tokens=tokens,
        )

    def _under_way(
        self, keys: Iterable[bytes], priority: Priority | None
    ) -> dict[bytes, asyncio.Future[bytes | None]]:
        """What is being made already; an interactive request does not wait for bulk's turn."""
        flights: dict[bytes, asyncio.Future[bytes | None]] = {}
        for key in keys:
            flight = self._flights["interactive"].get(key)
            if flight is None and priority == "bulk":
                flight = self._flights["bulk"].get(key)
            if flight is not None:
                flights[key] = flight
        return flights

    def _keys(self, call: EmbeddingCall, space: bytes | None) -> list[bytes]:
        # Of an unknown model nothing is kept or shared: its keys are of this request alone.
        mine = space if space is not None else os.urandom(SPACE_BYTES)
        options = call.options()
        return [
            input_key(self._secret, mine, item, dimensions=call.dimensions, options=options)
            for item in call.inputs
        ]

    async def _make(self, work: _Work, keys: list[bytes], known: dict[bytes, bytes]) -> int:
        """Have `keys` made and put them into `known`; the tokens that took.

        The calls go on where the request is given up: others may wait for them.

        Raises:
            RequestError: too many wait already, or one cannot be had.
        """
        if not keys:
            return 0
        parts = list(_parts(keys, work.inputs, work.group.limits))
        work.group.announce(len(parts), work.priority)
        loop = asyncio.get_running_loop()
        flights = {key: loop.create_future() for key in keys}
        for key, flight in flights.items():
            self._flights[work.priority].setdefault(key, flight)
        tasks = []
        for part in parts:
            task = loop.create_task(self._fly(work, {key: flights[key] for key in part}))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(_seen)
            tasks.append(task)
        shielded = [asyncio.shield(task) for task in tasks]
        counts = [await shielded[0]] if len(shielded) == 1 else await asyncio.gather(*shielded)
        for key, flight in flights.items():
            vector = flight.result()
            assert vector is not None, "a call that returned has landed all of its inputs"
            known[key] = vector
        return sum(counts)

    async def _fly(self, work: _Work, flights: dict[bytes, asyncio.Future[bytes | None]]) -> int:
        """One call to a server; lands all of its inputs, with None where it failed."""
        try:
            part = Part(
                inputs=[work.inputs[key] for key in flights],
                call=work.call,
                space=work.space,
                request_id=work.request_id,
            )
            vectors, tokens = await work.group.fetch(self._caller, part)
            made = dict(zip(flights, vectors, strict=True))
            if work.space is not None and self._store is not None:
                made = self._store.keep(made)
            for key, vector in made.items():
                flights[key].set_result(vector)
        except UpstreamRefusalError as refusal:
            # The server numbers what it was asked for: neither hits nor what goes in other calls.
            raise refusal.numbered([work.keys.index(key) for key in flights]) from None
        else:
            return tokens
        finally:
            for key, flight in flights.items():
                if not flight.done():
                    flight.set_result(None)
                if self._flights[work.priority].get(key) is flight:
                    del self._flights[work.priority][key]


def _taken(call: EmbeddingCall, group: Group) -> EmbeddingCall:
    """The call as its servers take it.

    Raises:
        RequestError: 400: they would refuse it, in the same words whatever the cache has; or answer
            another one, as some do with as many dimensions as they have.
    """
    if call.extra and group.guarded():
        for name, raw in call.extra:
            value = msgspec.json.decode(raw)
            if value is not None and not (name == DROP and isinstance(value, bool)):
                text = (
                    f"the body has a field that this endpoint does not; it has {', '.join(KNOWN)}"
                )
                raise RequestError(400, "unknown_field", text, param=name[:80])
        call = msgspec.structs.replace(call, extra=())
    if call.dimensions is not None and (identity := group.identity()) and identity.dimensions:
        return _sized(call, identity.dimensions, group)
    return call


def _sized(call: EmbeddingCall, whole: int, group: Group) -> EmbeddingCall:
    asked = call.dimensions or whole
    if asked > whole:
        text = f"`dimensions` is {asked}; vectors of this model have {whole}"
        raise RequestError(400, "bad_dimensions", text, param="dimensions")
    if not group.guarded():
        return call
    if asked == whole:
        return msgspec.structs.replace(call, dimensions=None)
    sizes = group.sizes()
    if sizes is not None and asked not in sizes:
        known = ", ".join(map(str, sorted(sizes)))
        text = f"`dimensions` is {asked}; vectors of this model are had with {known}"
        raise RequestError(400, "bad_dimensions", text, param="dimensions")
    return call


def _whole(call: EmbeddingCall, group: Group) -> tuple[EmbeddingCall, _Shorter | None]:
    """The call for whole vectors, and what then makes those that were asked for.

    One entry answers every length; what the engine would refuse, it is left to refuse.
    """
    dimensions = call.dimensions
    cuts = group.cuts() if dimensions is not None else None
    if dimensions is None or cuts is None or not cuts.allows(dimensions):
        return call, None

    def shorter(vectors: list[bytes]) -> list[bytes]:
        made = {v: cut(v, dimensions, normalize=cuts.normalize) for v in set(vectors)}
        return [made[vector] for vector in vectors]

    return msgspec.structs.replace(call, dimensions=None), shorter


class _Work(msgspec.Struct, frozen=True):
    """What the calls of one request have in common."""

    group: Group
    call: EmbeddingCall
    space: bytes | None
    request_id: str
    keys: list[bytes]
    """Of all inputs of the client's call, in its order."""
    inputs: dict[bytes, Input]

    @property
    def priority(self) -> Priority:
        return self.call.priority or "interactive"


def _own_keys(count: int) -> list[bytes]:
    """Keys that no other request has, one for each input, also for the same text twice."""
    mine = os.urandom(SPACE_BYTES)
    return [mine + number.to_bytes(4, "little") for number in range(count)]


async def _landed(
    joined: dict[bytes, asyncio.Future[bytes | None]], known: dict[bytes, bytes]
) -> int:
    """Wait for other requests' flights and put what came into `known`; how many came."""
    count = 0
    for key, flight in joined.items():
        vector = await asyncio.shield(flight)
        if vector is not None:
            known[key] = vector
            count += 1
    return count


def _parts(
    keys: Iterable[bytes], inputs: dict[bytes, Input], limits: Limits
) -> Iterator[list[bytes]]:
    """Cut into what one call may have; texts and token ids do not go together."""
    open_parts: dict[type, tuple[list[bytes], int]] = {}
    for key in keys:
        item = inputs[key]
        weight = bytes_of((item,))
        part, size = open_parts.get(type(item), ([], 0))
        if part and (len(part) >= limits.call_inputs or size + weight > limits.call_bytes):
            yield part
            part, size = [], 0
        part.append(key)
        open_parts[type(item)] = part, size + weight
    for part, _size in open_parts.values():
        yield part


def _seen(task: asyncio.Task[int]) -> None:
    """Fetch a failure that nobody waits for any more."""
    if not task.cancelled():
        task.exception()
