"""The cache as requests see it: quick, checked, and never in the way.

A request waits for the store for a few milliseconds at most; what does not come by then counts as
missing. A store that fails again and again is not asked for a while. What is to be kept is written
behind the requests' backs, and until then read from memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import msgspec

from launcher.gateway.backends.backend import Backend
from launcher.gateway.breaker import Breaker
from launcher.gateway.entry import BadEntryError, Dtype, as_kept, pack, unpack
from launcher.gateway.recent import MEMORY_BYTES, RecentVectors
from launcher.units import counted

BUDGET_S: Final = 0.005
"""Longest that a request waits for the store, and as much again for every `SHARE` inputs of it."""
SHARE: Final = 64
_READERS: Final = 2
_BATCH_BYTES: Final = 512 << 10
"""Written in one go."""
_PENDING_BYTES: Final = 32 << 20
"""Most that waits to be written; more is not kept."""
_WRITE_AFTER_S: Final = 0.5
"""Vectors wait so long for company, or until they fill a batch: one transaction for many."""
STUCK_S: Final = 1.0
"""After which a read that no request waits for any more is ended: an answer that drips in would
keep its thread for ever, and a store that is well again would have nobody to ask it."""
WRITE_S: Final = 10.0
"""Longest that a batch may take to be written."""
_LOG: Final = logging.getLogger("qlaunch.gateway")


class Counts(msgspec.Struct):
    """What happened to the store, since the start."""

    hits: int = 0
    misses: int = 0
    bypassed: int = 0
    """Requests that did not ask it, or did not wait for its answer."""
    slow: int = 0
    failed: int = 0
    corrupt: int = 0
    """Entries that were not what had been stored: taken for missing."""
    written: int = 0
    dropped: int = 0
    """Vectors that were not kept: too many waited, or the store refused."""


class Store:
    """Vectors by key, over a backend that may fail in every way."""

    def __init__(
        self,
        backend: Backend,
        secret: bytes,
        *,
        dtype: Dtype = "float32",
        budget_s: float = BUDGET_S,
        memory_bytes: int = MEMORY_BYTES,
        breaker: Breaker | None = None,
    ) -> None:
        """Nothing is read or written yet; needs a running event loop when used."""
        self.backend = backend
        self.counts = Counts()
        self.breaker = breaker or Breaker()
        self.write_breaker = Breaker()
        """Of its own: a full store can still be read."""
        self._secret = secret
        self._dtype = dtype
        self._budget_s = budget_s
        self._recent = RecentVectors(memory_bytes)
        self._readers = ThreadPoolExecutor(_READERS, "cache-read")
        self._writer = ThreadPoolExecutor(1, "cache-write")
        self._pending: dict[bytes, bytes] = {}
        self._pending_bytes = 0
        self._writing: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        """Set: what waits is written at once."""

    async def read(
        self, keys: Sequence[bytes], budget_s: float | None = None
    ) -> dict[bytes, bytes]:
        """The vectors (float32, little-endian) that are there, by key; within the budget.

        Raises nothing: a store that fails has nothing.
        """
        vectors: dict[bytes, bytes] = {}
        rest = []
        for key in keys:
            vector = self._recent.get(key)
            if vector is not None:
                vectors[key] = vector
            elif (entry := self._pending.get(key)) is not None:
                vectors[key] = unpack(self._secret, key, entry)
            else:
                rest.append(key)
        if rest:
            if budget_s is None:
                budget_s = budget_for(len(rest), self._budget_s)
            vectors.update(await self._from_backend(rest, budget_s))
        self.counts.hits += len(vectors)
        self.counts.misses += len(keys) - len(vectors)
        return vectors

    def keep(self, vectors: Mapping[bytes, bytes], *, exact: bool = False) -> dict[bytes, bytes]:
        """Take vectors to be written soon; return them as they will be read again.

        `exact`: as float32, whatever others are kept as.
        """
        kept = {}
        dtype: Dtype = "float32" if exact else self._dtype
        for key, vector in vectors.items():
            try:
                kept[key] = as_kept(vector, dtype)
                entry = pack(self._secret, key, vector, dtype)
            except OverflowError:  # no float16 can hold it: it is answered, and not kept
                kept[key] = vector
                self.counts.dropped += 1
                continue
            if self._pending_bytes + len(entry) > _PENDING_BYTES:
                self.counts.dropped += 1
                continue
            self._recent.put(key, kept[key])
            if key not in self._pending:
                self._pending[key] = entry
                self._pending_bytes += len(entry)
        if self._pending and (self._writing is None or self._writing.done()):
            self._writing = asyncio.get_running_loop().create_task(self._write())
        return kept

    async def flush(self) -> None:
        """Wait until what was to be kept is written, or given up."""
        self._hurry.set()
        while self._writing is not None and not self._writing.done():
            await asyncio.wait({self._writing})
        self._hurry.clear()

    async def close(self, limit_s: float = 5.0) -> None:
        """Write what waits, within `limit_s`, and let the backend go."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.flush(), limit_s)
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._writer.shutdown(wait=False, cancel_futures=True)
        self.backend.close()

    async def _from_backend(self, keys: Sequence[bytes], budget_s: float) -> dict[bytes, bytes]:
        keys = self.backend.candidates(keys)
        if not keys:
            return {}
        if not self.breaker.allows():
            self.counts.bypassed += 1
            return {}
        job = self._readers.submit(self.backend.get_many, keys)
        asked = asyncio.wrap_future(job)
        asked.add_done_callback(_forget)
        try:
            await asyncio.wait({asked}, timeout=budget_s)
        except asyncio.CancelledError:
            self._abandon(job, budget_s)
            raise
        # The thread may have the answer while this loop was late to hear of it.
        if not job.done():
            self._abandon(job, budget_s)
            return {}
        try:
            entries = job.result()
        except Exception as error:  # noqa: BLE001 - whatever a client library raises, the store fails
            self.counts.failed += 1
            self._failure(self.breaker, "is bypassed", str(error))
            return {}
        return self._checked(keys, entries)

    def _abandon(self, job: Future[list[bytes | None]], budget_s: float) -> None:
        """Go on without the answer; the thread ends by the backend's own limit."""
        self.counts.slow += 1
        self.counts.bypassed += 1
        if not job.cancel():  # where it has not begun; never waits
            asyncio.get_running_loop().call_later(STUCK_S, self._interrupt, job)
        why = f"no answer within {budget_s * 1000:g} ms"
        self._failure(self.breaker, "is bypassed", why)

    def _interrupt(self, job: Future[list[bytes | None]]) -> None:
        if not job.done():
            self.backend.interrupt()

    def _checked(
        self, keys: Sequence[bytes], entries: Iterable[bytes | None]
    ) -> dict[bytes, bytes]:
        vectors = {}
        corrupt = 0
        for key, entry in zip(keys, entries, strict=True):
            if entry is None:
                continue
            try:
                vectors[key] = unpack(self._secret, key, entry)
            except BadEntryError:
                corrupt += 1
            else:
                self._recent.put(key, vectors[key])
        self.counts.corrupt += corrupt
        if corrupt:
            why = f"{counted(corrupt, 'entry')} differed from what was stored"
            self._failure(self.breaker, "is bypassed", why)
        else:
            self._success(self.breaker, "is used")
        return vectors

    async def _write(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), _WRITE_AFTER_S)
        while self._pending:
            batch = self._next_batch()
            written = False
            if self.write_breaker.allows():  # reads that were too slow for a request are no fault
                try:
                    await self._written(batch)
                    written = True
                    self._success(self.write_breaker, "is written to")
                except Exception as error:  # noqa: BLE001 - as for reading
                    self.counts.failed += 1
                    self._failure(self.write_breaker, "is not written to", str(error))
            if written:
                self.counts.written += len(batch)
            else:
                self.counts.dropped += len(batch)
            for key in batch:
                self._pending_bytes -= len(self._pending.pop(key))

    async def _written(self, batch: dict[bytes, bytes]) -> None:
        """Write a batch, and end what does not end by itself."""
        loop = asyncio.get_running_loop()
        limit = loop.call_later(WRITE_S, self.backend.interrupt)
        try:
            await loop.run_in_executor(self._writer, self.backend.set_many, batch)
        finally:
            limit.cancel()

    def _next_batch(self) -> dict[bytes, bytes]:
        batch: dict[bytes, bytes] = {}
        size = 0
        for key, entry in self._pending.items():
            if batch and size + len(entry) > _BATCH_BYTES:
                break
            batch[key] = entry
            size += len(entry)
        return batch

    def _success(self, breaker: Breaker, what: str) -> None:
        if breaker.success():
            _LOG.warning("the cache %s %s again", self.backend.name, what)

    def _failure(self, breaker: Breaker, what: str, why: str) -> None:
        if breaker.failure():
            rest = breaker.rest_s
            _LOG.warning(
                "the cache %s %s: %s; tried again in %g s", self.backend.name, what, why, rest
            )


def budget_for(count: int, budget_s: float = BUDGET_S) -> float:
    """Seconds that a request of so many inputs may wait: reading 2000 entries takes 20 ms."""
    return budget_s * (1 + count // SHARE)


def _forget(asked: asyncio.Future[list[bytes | None]]) -> None:
    """Fetch the failure of a read, which is looked at in the thread's own future, if at all."""
    if not asked.cancelled():
        asked.exception()
