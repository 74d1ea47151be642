"""Replicas inside one engine on a CPU: SGLang's data parallel schedulers (`--dp-size`). Pure.

One front takes the requests and hands them to schedulers in turn, each with a model, a cache and
threads of its own. One port, one supervisor, nothing to route.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from launcher.documents.plan import MemoryPrediction, StartMethod, Term
from launcher.plan import memory
from launcher.units import counted

SCHEDULER_BYTES: Final = 95_000_000
"""One scheduler more, forked, without model and cache: the pages it shares with nobody."""
CONTROLLER_BYTES: Final = 25_000_000
"""The process that hands requests out, which is there from two replicas on: likewise."""
# Private pages of MiniLM's two replicas less those of one: SGLang 0.5.23, PyTorch's CPU build.
SPAWNED_BYTES: Final = 620_000_000
"""The same for processes that import everything themselves: as one spawned scheduler takes."""


def threads_each(usable: int, replicas: int) -> int:
    """Compute threads of each replica when all share the machine."""
    return max(1, usable // replicas)


def environment(replicas: int, threads: int | None) -> Mapping[str, str]:
    """Processors by replica, `0-1|2-3`: SGLang wants them named when there is more than one.

    It binds to them only with compiled kernels for AMX, which the `cpu` release does not have.
    """
    if replicas == 1:
        return {}
    each = threads or 1
    groups = (f"{n * each}-{n * each + each - 1}" if each > 1 else str(n) for n in range(replicas))
    return {"SGLANG_CPU_OMP_THREADS_BIND": "|".join(groups)}


def predicted(
    one: MemoryPrediction, replicas: int, *, method: StartMethod, calibrated: bool
) -> MemoryPrediction:
    """The prediction for `replicas` schedulers, from that for one.

    Args:
        one: for one scheduler.
        replicas: how many there are.
        method: how the engine's processes are started.
        calibrated: whether the engine's base in `one` is that of this host's runs with as many
            replicas: their processes are in it then.
    """
    if replicas == 1:
        return one
    terms = tuple(_repeated(term, replicas) for term in one.terms)
    if not calibrated:
        terms = (*terms, _others(replicas - 1, method))
    return memory.with_ram(one, terms)


def _others(more: int, method: StartMethod) -> Term:
    """The processes that one scheduler alone does not have."""
    forked = method == "fork"
    each = SCHEDULER_BYTES if forked else SPAWNED_BYTES
    return Term(
        name=f"engine: {counted(more, 'more scheduler')}, and what hands out requests",
        device="ram",
        bytes=more * each + (CONTROLLER_BYTES if forked else SPAWNED_BYTES),
        basis="measured",
        source="SGLang 0.5.23, PyTorch CPU build, x86-64, two replicas; not on this host",
        kind="replicas",
        start_method=method,
    )


def _repeated(term: Term, replicas: int) -> Term:
    """What a scheduler computes with is there once for each; the engine's base is not."""
    if term.kind != "model":
        return term
    return msgspec.structs.replace(
        term, bytes=replicas * term.bytes, source=f"{replicas} replicas × ({term.source})"
    )
