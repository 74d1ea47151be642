"""The gateway before an engine, where a profile asks for a cache: its memory, and why. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal

import msgspec

from launcher.config.profile import CacheBackend
from launcher.config.service_cache import ServiceCache
from launcher.documents.plan import Guard, MemoryPrediction, Term
from launcher.units import size

GATEWAY_BYTES: Final[Mapping[CacheBackend, int]] = {
    "embedded": 37_000_000,
    "redis": 47_000_000,
    "memcached": 37_000_000,
}
"""Memory of the gateway's process once the service is verified: its PSS beside a supervisor whose
pages it shares. Measured with a file: 35.2 to 35.9 MB, RSS 49; the clients of Redis and Memcached
took 9.8 MB more and as much."""
SOURCE: Final = "CPython 3.11, aiohttp, uvloop, x86-64 (Zen 4); not on this host"
PENDING_BYTES: Final = 32 << 20
"""Vectors that wait to be written, at most (launcher/gateway/store.py)."""
FILE_BYTES: Final = 10_000_000
"""Pages of the file that SQLite keeps, 2 MB a thread; 4 MB were measured."""
FILTER_BYTES: Final = (1 << 14, 1 << 24)
"""Of the keys that a file may have, least and most (launcher/gateway/backends/known_keys.py)."""
ANSWER_BYTES: Final = 64 << 20
"""Of answers that are on their way at once, at least (launcher/gateway/server.py)."""
FLOAT_BYTES: Final = 30
"""Of the gateway for each number of a vector that is answered as a number in JSON: measured,
23.4 MB for 2048 vectors of 384."""
CALL_FACTOR: Final = 8
"""Times the bytes of a body that a request takes: 2.8 were measured of texts, 7.1 of token ids."""
TOKENIZER_BYTES: Final = 7_000_000
"""Of the library tokenizers, with little."""
TOKEN_BYTES: Final = 900
"""Of a tokenizer for each token of its vocabulary while it is read. Measured: 880 for merges (BPE)
of Qwen3's size, 110 for MiniLM's."""
UNIGRAM_BYTES: Final = 2_400
"""The same of a vocabulary of more than `MANY` tokens, which may be one of Unigram: 2,280 measured
for 250,000."""
MANY: Final = 200_000


def predicted(
    without: MemoryPrediction, cache: ServiceCache | None, guard: Guard, engines: int = 1
) -> MemoryPrediction:
    """A prediction with the gateway's process, and with what it holds when it is full.

    Args:
        without: of the engines.
        cache: what the gateway keeps; None: nothing.
        guard: limits of requests to one engine, which are the gateway's too.
        engines: how many it serves.
    """
    process = _term("gateway", _process(cache), "measured", SOURCE, reserve=False)
    terms = (process, *_kept(cache), *_requests(guard, engines))
    ram, full = without.ram_bytes or 0, without.ram_full_bytes or 0
    return msgspec.structs.replace(
        without,
        ram_bytes=ram + process.bytes,
        ram_full_bytes=full + sum(term.bytes for term in terms),
        terms=(*without.terms, *terms),
    )


def bodies_bytes(guard: Guard, engines: int = 1) -> int:
    """Of bodies that the gateway takes at once, at most: those that its engines take."""
    return engines * guard.open_bytes


def answers_bytes(guard: Guard, engines: int = 1) -> int:
    """Of answers that are on their way at once, at most: of all inputs that its engines take."""
    return max(ANSWER_BYTES, engines * guard.open_inputs * guard.dimensions * FLOAT_BYTES)


def filter_bytes(file_bytes: int) -> int:
    """Of the keys of a file that may be so large: a power of two."""
    least, most = FILTER_BYTES
    return min(most, max(least, 1 << max(0, (file_bytes - 1) >> 10).bit_length()))


def _process(cache: ServiceCache | None) -> int:
    return GATEWAY_BYTES["embedded" if cache is None else cache.backend]


def _kept(cache: ServiceCache | None) -> Iterator[Term]:
    if cache is None:
        return
    what = [f"{size(cache.memory_bytes)} used last (cache.memory), {size(PENDING_BYTES)} unwritten"]
    count = cache.memory_bytes + PENDING_BYTES
    if cache.backend == "embedded":
        keys = 2 * filter_bytes(cache.max_bytes)  # the one in use, and the next while it is filled
        what.append(f"{size(keys)} of keys, {size(FILE_BYTES)} of the file")
        count += keys + FILE_BYTES
    yield _term("gateway's vectors", count, "computed", ", ".join(what))


def _requests(guard: Guard, engines: int) -> Iterator[Term]:
    """What clients may have it hold."""
    bodies, answers = bodies_bytes(guard, engines), answers_bytes(guard, engines)
    yield _term(
        "gateway's requests at once",
        bodies * CALL_FACTOR + answers,
        "computed",
        f"{size(bodies)} of bodies × {CALL_FACTOR}, {size(answers)} of answers",
    )
    each = UNIGRAM_BYTES if guard.vocabulary > MANY else TOKEN_BYTES
    yield _term(
        "gateway's tokenizer",
        TOKENIZER_BYTES + guard.vocabulary * each,
        "computed",
        f"{guard.vocabulary} tokens × {each} B, once a request is to be cut or has token ids",
    )


def _term(
    name: str,
    count: int,
    basis: Literal["computed", "measured"],
    source: str,
    *,
    reserve: bool = True,
) -> Term:
    return Term(
        name=name,
        device="ram",
        process="gateway",
        bytes=count,
        basis=basis,
        source=source,
        kind="gateway",
        reserve=reserve,
    )


def reasons(cache: ServiceCache | None) -> tuple[str, ...]:
    """What stands before the engine, in one sentence."""
    if cache is None:
        return ()
    bound = f", {size(cache.max_bytes)} at most" if cache.backend == "embedded" else ""
    words = (
        f"a gateway answers at the service's address, {cache.dtype} vectors kept in {cache.place}"
    )
    return (f"cache: {words}{bound}; the engine listens on a port of its own on loopback",)


def notes(cache: ServiceCache | None, replicas: int) -> tuple[str, ...]:
    """What of the cache's settings has no effect, a sentence each."""
    if cache is None or cache.idle_stop_s is None or replicas == 1:
        return ()
    return (f"`cache.idle_stop_s` has no effect: replicas are not stopped ({replicas} are wanted)",)
