"""What engine options add to an engine's memory on a CPU: fronts, and imports. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from launcher.argv import FlagValue
from launcher.documents.plan import MemoryPrediction, Term
from launcher.plan import memory

FRONTS: Final = "tokenizer-worker-num"
FRONT_BYTES: Final = 330_000_000
"""One front: a process that is spawned, and imports all by itself. Whole trees of MiniLM with two
and three of them took 1,373 and 1,702 MB until verified, alone 651 (SGLang 0.5.23,
PyTorch's CPU build, two cores)."""
COMPILES: Final = "enable-torch-compile"
FLEX: Final = "flex_attention"
"""A backend that imports what compiles too: MiniLM's tree took 652 MB with it for decoding alone,
which an embedding never does; 611 were predicted."""
BACKENDS: Final = ("attention-backend", "prefill-attention-backend", "decode-attention-backend")
IMPORTS: Final = ("QLAUNCH_IMPORTS", "all")
"""A variable of a profile's `env` that leaves no import out."""
IMPORTS_BYTES: Final = 170_000_000
"""What the plugin leaves out of imports: MiniLM's tree took 815 to 820 MB with all, 651 without."""
_SOURCE: Final = "SGLang 0.5.23, PyTorch CPU build, x86-64; not on this host"


def fronts(flags: Mapping[str, FlagValue]) -> int:
    """Fronts that are started beside the engine's first process; 0 where that is the front."""
    number = memory.count(flags, FRONTS) or 0
    return number if number > 1 else 0


def flexes(given: Mapping[str, FlagValue]) -> bool:
    """Whether a backend is asked for that compiles its attention."""
    return any(given.get(name) == FLEX for name in BACKENDS)


def predicted(
    one: MemoryPrediction, given: Mapping[str, FlagValue], env: Mapping[str, str], *, plugin: bool
) -> MemoryPrediction:
    """The prediction with what options add.

    Args:
        one: without.
        given: options that are given and not switched off.
        env: the profile's own variables.
        plugin: whether qlaunch's plugin runs in the engine; without it nothing is left out.
    """
    terms = []
    if count := fronts(given):
        terms.append(_term(f"engine: {count} fronts beside the first process", count * FRONT_BYTES))
    name, value = IMPORTS
    if plugin and (COMPILES in given or flexes(given) or env.get(name) == value):
        terms.append(_term("engine: imports that are left out else", IMPORTS_BYTES))
    return memory.with_ram(one, (*one.terms, *terms)) if terms else one


def _term(name: str, size: int) -> Term:
    return Term(
        name=name,
        device="ram",
        process="front",
        bytes=size,
        basis="measured",
        source=_SOURCE,
        kind="options",
    )
