"""Engines of their own behind one gateway: their shares of a machine, and their memory. Pure.

Unlike the schedulers of one engine (replicas.py) they share no front, so that none of them is a
bottleneck and none takes the others with it; each has all processes of an engine to itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec

from launcher.documents.plan import Guard, MemoryPrediction, ModelKind, ReplicaSet, Term
from launcher.plan import caching, fit, memory, placement
from launcher.plan.draft import Draft, model_kind
from launcher.plan.fit import Misfit
from launcher.plan.inputs import Inputs
from launcher.units import counted

FORKED_BYTES: Final[Mapping[ModelKind, int]] = {"encoder": 185_000_000, "decoder": 150_000_000}
"""What one engine more takes of its own without its model, all its processes together, where what
they import is shared: private pages, those of its template included.

PSS of sets until verified: MiniLM 893 MB with two, 1,130 with three, 1,380 with four; a tiny Qwen3
558 alone, 761 with two, 942 with three (SGLang 0.5.23, PyTorch's CPU build, x86-64, 2 cores)."""
CORES: Final = "SGLANG_CPU_OMP_THREADS_BIND"
"""Variable that names an engine's processors; kernels for AMX bind to them (replicas.py)."""


def is_set(inputs: Inputs) -> bool:
    """Whether the engines are a set: one alone is, where it may be given more."""
    return inputs.settings.replicas > 1 or inputs.as_set


def is_fronted(inputs: Inputs) -> bool:
    """Whether a gateway has the service's address, before a set or with a cache."""
    return is_set(inputs) or inputs.settings.cache is not None


def make(inputs: Inputs, draft: Draft, one: MemoryPrediction) -> ReplicaSet | None:
    """The set that the settings ask for; None for one engine as it always was.

    `one`: the memory of one engine alone.
    """
    if not is_set(inputs):
        return None
    count = inputs.settings.replicas
    return ReplicaSet(count=count, one=one, shares=_shares(inputs, draft, count))


def _shares(inputs: Inputs, draft: Draft, count: int) -> tuple[dict[str, str], ...]:
    """What shows each replica its part of the machine; nothing where there is nothing to show."""
    spread = placement.cards(inputs)
    if len(spread) > 1:
        return tuple(placement.visible(spread[number % len(spread)]) for number in range(count))
    return _processors(inputs, draft, count)


def _processors(inputs: Inputs, draft: Draft, count: int) -> tuple[dict[str, str], ...]:
    """Processors by replica, one after another, where their numbers are known and there are enough.

    Under an affinity the numbers are others than 0, 1, 2, …
    """
    cpu, threads = inputs.hardware.cpu, draft.threads.value
    if threads is None or cpu.usable_source != "machine":
        return ()
    each = threads * draft.replicas
    if each * count > cpu.usable:
        return ()
    return tuple(
        {
            CORES: "|".join(
                _range(number * each + part * threads, threads) for part in range(draft.replicas)
            )
        }
        for number in range(count)
    )


def _range(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first}-{first + count - 1}"


def predicted(
    one: MemoryPrediction, engines: ReplicaSet | None, inputs: Inputs, draft: Draft, guard: Guard
) -> MemoryPrediction:
    """All that the service takes: its engines, and the gateway before them.

    Pages of libraries, which any engines share with each other, are counted for each.
    """
    cache = inputs.settings.cache
    if engines is None and cache is None:
        return one
    count = 1 if engines is None else engines.count
    return caching.predicted(_times(one, count, _forked(inputs, draft)), cache, guard, count)


def _forked(inputs: Inputs, draft: Draft) -> int | None:
    """Bytes of an engine's processes that is forked from what another imported; None: none is."""
    return FORKED_BYTES[model_kind(inputs)] if "template" in draft.parts else None


def _times(one: MemoryPrediction, count: int, forked: int | None) -> MemoryPrediction:
    if count == 1:
        return one
    base = sum(term.bytes for term in one.terms if term.kind == "engine")
    terms = tuple(
        _repeated(term, count)
        if forked is None or term.kind != "engine"
        else _imported_once(term, count, forked / base)
        for term in one.terms
    )
    on_gpu = one.gpu_bytes is not None
    return msgspec.structs.replace(
        one,
        ram_bytes=None if one.ram_bytes is None else memory.total(terms, "ram", full=False),
        ram_full_bytes=None
        if one.ram_full_bytes is None
        else memory.total(terms, "ram", full=True),
        gpu_bytes=memory.total(terms, "gpu", full=False) if on_gpu else None,
        gpu_full_bytes=memory.total(terms, "gpu", full=True) if on_gpu else None,
        terms=terms,
    )


def _repeated(term: Term, count: int) -> Term:
    return msgspec.structs.replace(
        term, bytes=count * term.bytes, source=f"{count} replicas × ({term.source})"
    )


def _imported_once(term: Term, count: int, part: float) -> Term:
    """A process of each replica's engine, of which all but the first have `part` of their own."""
    return msgspec.structs.replace(
        term,
        bytes=math.ceil(term.bytes * (1 + (count - 1) * part)),
        source=f"{count} replicas, imported once ({term.source})",
    )


def misfit(engines: ReplicaSet, inputs: Inputs, draft: Draft, guard: Guard) -> Misfit | None:
    """Why a set of several does not fit; None where it does. What helps is fewer replicas."""
    why = _lacking(engines, inputs, draft, guard)
    if why is None:
        return None
    for count in range(engines.count - 1, 0, -1):
        fewer = msgspec.structs.replace(engines, count=count)
        if _lacking(fewer, inputs, draft, guard) is None:
            return Misfit(f"{engines.count} replicas: {why}", f"--replicas {count} fits")
    return Misfit(f"{engines.count} replicas, and one alone does not fit: {why}", None)


def _lacking(engines: ReplicaSet, inputs: Inputs, draft: Draft, guard: Guard) -> str | None:
    """What is missing of the memory of all, or on the first card that has too little."""
    spread = placement.cards(inputs)
    if len(spread) < 2:
        all_of_it = predicted(engines.one, engines, inputs, draft, guard)
        return fit.lacking(all_of_it, inputs.hardware)
    for at, card in enumerate(spread):
        on_it = len(range(at, engines.count, len(spread)))
        alone = msgspec.structs.replace(inputs.hardware, gpus=(card,))
        why = fit.lacking(_times(engines.one, on_it, None), alone) if on_it else None
        if why is not None:
            return f"{on_it} on {card.name} {card.index}: {why}"
    return None


def reasons(inputs: Inputs) -> tuple[str, ...]:
    """What the set is, in a sentence."""
    if not is_set(inputs):
        return ()
    count, device = inputs.settings.replicas, inputs.engine.release.device
    source = inputs.settings.sources.get("replicas", "as given")
    how = "the first alone, then the others together"
    if device != "cpu":
        how = "one after another, each with a KV cache of its own size"
    engines = counted(count, "engine")
    spread = placement.cards(inputs)
    on = f", on {len(spread)} cards in turn ({spread[0].name})" if len(spread) > 1 else ""
    what = f"{engines} behind a gateway at the service's address{on}"
    return (f"replicas: {what} ({source}); started {how}",)
