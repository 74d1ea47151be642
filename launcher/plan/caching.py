"""The gateway before an engine, where a profile asks for a cache: its memory, and why. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from launcher.config.profile import CacheBackend
from launcher.config.service_cache import ServiceCache
from launcher.documents.plan import MemoryPrediction, Term
from launcher.units import size

GATEWAY_BYTES: Final[Mapping[CacheBackend, int]] = {
    "embedded": 34_000_000,
    "redis": 43_000_000,
    "memcached": 34_000_000,
}
"""Memory of the gateway's process once the service is verified: its PSS beside a supervisor whose
pages it shares (33.4, 43.2 and 33.1 MB; RSS 47, 56, 46)."""
SOURCE: Final = "CPython 3.11, aiohttp, uvloop, x86-64 (Zen 4); not on this host"
PENDING_BYTES: Final = 32 << 20
"""Vectors that wait to be written, at most (launcher/gateway/store.py)."""


def with_gateway(without: MemoryPrediction) -> MemoryPrediction:
    """A prediction with the process of a gateway that keeps nothing."""
    source = f"with a file of vectors, which takes a little more; {SOURCE}"
    return _with(without, _process("embedded", source))


def predicted(without: MemoryPrediction, cache: ServiceCache | None) -> MemoryPrediction:
    """A prediction with the gateway's process, and with what it holds when it is full."""
    if cache is None:
        return without
    kept = Term(
        name="gateway's vectors",
        device="ram",
        process="gateway",
        bytes=cache.memory_bytes + PENDING_BYTES,
        basis="computed",
        source=f"{size(cache.memory_bytes)} used last (cache.memory),"
        f" {size(PENDING_BYTES)} unwritten",
        kind="gateway",
        reserve=True,
    )
    return _with(without, _process(cache.backend, SOURCE), kept)


def _process(backend: CacheBackend, source: str) -> Term:
    return Term(
        name="gateway",
        device="ram",
        process="gateway",
        bytes=GATEWAY_BYTES[backend],
        basis="measured",
        source=source,
        kind="gateway",
    )


def _with(without: MemoryPrediction, *terms: Term) -> MemoryPrediction:
    """`without` and more of RAM; a reserve counts where everything is full."""
    now = sum(term.bytes for term in terms if not term.reserve)
    return msgspec.structs.replace(
        without,
        ram_bytes=(without.ram_bytes or 0) + now,
        ram_full_bytes=(without.ram_full_bytes or 0) + sum(term.bytes for term in terms),
        terms=(*without.terms, *terms),
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
