"""Several fronts of one engine (`--tokenizer-worker-num`), each with its own imports. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from launcher.argv import FlagValue
from launcher.documents.plan import MemoryPrediction, Term
from launcher.plan import memory

FLAG: Final = "tokenizer-worker-num"
FRONT_BYTES: Final = 330_000_000
"""One front: a process that is spawned, and imports all by itself. Whole trees of MiniLM with two
and three of them took 1,373 and 1,702 MB until verified, alone 651 (SGLang 0.5.23,
PyTorch's CPU build, two cores)."""


def count(flags: Mapping[str, FlagValue]) -> int:
    """Fronts that are started beside the engine's first process; 0 where that is the front."""
    value = flags.get(FLAG)
    return value if isinstance(value, int) and value > 1 else 0


def predicted(one: MemoryPrediction, fronts: int) -> MemoryPrediction:
    """The prediction with so many fronts.

    Args:
        one: with the first process alone, which stays beside them.
        fronts: from `count`.
    """
    if not fronts:
        return one
    term = Term(
        name=f"engine: {fronts} fronts beside the first process",
        device="ram",
        process="front",
        bytes=fronts * FRONT_BYTES,
        basis="measured",
        source="SGLang 0.5.23, PyTorch CPU build, x86-64; not on this host",
        kind="fronts",
    )
    terms = (*one.terms, term)
    return msgspec.structs.replace(
        one,
        ram_bytes=memory.total(terms, "ram", full=False),
        ram_full_bytes=memory.total(terms, "ram", full=True),
        terms=terms,
    )
