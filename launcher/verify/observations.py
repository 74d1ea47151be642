"""What the smoke saw: the calls, and the vectors that can be compared, with the faults found.

Reading is done once and in stages, so that one fault fails one check: an answer is counted, put in
order, measured, and only what passed goes on to be compared.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from operator import mul
from typing import TYPE_CHECKING

from launcher.units import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from launcher.documents.smoke import VerifyRequest
    from launcher.verify.embedding_client import CallError, EmbeddingAnswer, Item
    from launcher.verify.reference import Outcome, Reference, Vector

FLOAT32_MAX = 3.4028235e38


@dataclass(frozen=True)
class Ask:
    """One call: its texts by name, and the answer or the error (both None: never made)."""

    name: str
    names: tuple[str, ...]
    answer: EmbeddingAnswer | None = None
    error: CallError | None = None


@dataclass(frozen=True)
class Observations:
    """Everything a verdict is drawn from."""

    request: VerifyRequest
    asks: Mapping[str, Ask]
    """By name, in the order made: first, again, reversed, alone:NAME, default, overflow, after."""
    outcome: Outcome
    left_out: frozenset[str] = frozenset()
    """Names of the texts longer than the model's context."""

    @property
    def reference(self) -> Reference | None:
        """The checkpoint's own vectors, where they are known."""
        return self.outcome.reference


@dataclass
class Reading:
    """The evidence in order: comparable vectors by call and text, and faults by check."""

    evidence: Observations
    vectors: dict[str, dict[str, Vector]] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=dict)

    def fault(self, check: str, what: str) -> None:
        """Note `what` against `check`."""
        self.faults.setdefault(check, []).append(what)

    def compared(self) -> Iterator[tuple[str, str, Vector]]:
        """Call, text and vector of every usable answer to a text of the reference."""
        reference = self.evidence.reference
        for ask, found in self.vectors.items():
            for name, vector in found.items():
                if reference is not None and name in reference.vectors:
                    yield ask, name, vector


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Cosine of two vectors of one length; NaN where one is zero or not finite."""
    lengths = norm(one) * norm(other)
    if not math.isfinite(lengths) or lengths == 0 or len(one) != len(other):
        return math.nan
    product: float = sum(map(mul, one, other))
    return product / lengths


def norm(vector: Sequence[float]) -> float:
    """Euclidean length."""
    return math.sqrt(sum(map(mul, vector, vector)))


def read(evidence: Observations) -> Reading:
    """Count, order and measure every answer."""
    reading = Reading(evidence)
    for ask in evidence.asks.values():
        if ask.error is not None and ask.error.kind == "not_finite":
            reading.fault("finite", f"{ask.error} ({ask.name})")
        if ask.answer is not None:
            placed = _place(reading, ask, ask.answer.items)
            usable = {n: v for n, v in placed.items() if _sound(reading, ask.name, n, v)}
            reading.vectors[ask.name] = _untangle(reading, ask.name, usable)
    return reading


def _place(reading: Reading, ask: Ask, items: Sequence[Item]) -> dict[str, Vector]:
    """Vectors by text name, by the index each came with; faults of count and order are noted."""
    asked, got = len(ask.names), len(items)
    if got != asked:
        reading.fault(
            "count",
            f"{counted(asked, 'text')} sent and {counted(got, 'vector')} came ({ask.name})",
        )
        return {}  # Which vector is whose cannot be known: a server may have numbered them anew.
    times = Counter(item.index for item in items)
    strange = [index for index in times if index is None or not 0 <= index < asked]
    if None in times:
        reading.fault(
            "order", f"{counted(times[None], 'vector')} came without an index ({ask.name})"
        )
    elif strange:
        reading.fault("order", f"index {strange[0]} is not from 0 to {asked - 1} ({ask.name})")
    twice = [index for index, count in times.items() if count > 1 and index is not None]
    if twice:
        reading.fault("order", f"index {twice[0]} came {times[twice[0]]} times ({ask.name})")
    good = [item.index for item in items if item.index is not None and times[item.index] == 1]
    if good != sorted(good):
        reading.fault("order", f"the indices came as {_start(good)} ({ask.name})")
    return {
        # A name may be asked more than once in the overflow; any one of its vectors will do.
        ask.names[item.index]: item.vector
        for item in items
        if item.index is not None and times[item.index] == 1 and 0 <= item.index < asked
    }


def _start(indices: Sequence[int]) -> str:
    shown = ", ".join(map(str, indices[:6]))
    return shown + (", …" if len(indices) > 6 else "")


def _sound(reading: Reading, ask: str, name: str, vector: Vector) -> bool:
    """Whether `vector` has the right width and is finite and not zero; faults are noted."""
    expected = reading.evidence.request.dimensions
    if len(vector) != expected:
        reading.fault("dimension", f"{name} has {len(vector)} numbers, not {expected} ({ask})")
        return False
    # `not <=` holds for NaN too. What float32 cannot hold is no number of a float32 vector.
    bad = [at for at, number in enumerate(vector) if not abs(number) <= FLOAT32_MAX]
    if bad:
        what = f"{name}: {len(bad)} of {expected} numbers are NaN, infinite or null"
        reading.fault("finite", f"{what}, the first at {bad[0]} ({ask})")
        return False
    if norm(vector) == 0:
        reading.fault("finite", f"{name}: every number is 0 ({ask})")
        return False
    return True


def _untangle(reading: Reading, ask: str, found: dict[str, Vector]) -> dict[str, Vector]:
    """`found` with vectors given back to their texts, where texts got each other's.

    Indices cannot show this. It is taken for a swap only if the vectors that miss their own
    reference are exactly each other's; the fault is noted, and the rest compared as it should be.
    """
    reference, least = reading.evidence.reference, reading.evidence.request.parity_min
    if reference is None or least <= 0:
        return found
    owners: dict[str, str] = {}
    wrong = [n for n in found if not _close(found[n], reference.vectors.get(n), least)]
    for name in wrong:
        fits = [n for n in wrong if _close(found[name], reference.vectors.get(n), least)]
        if len(fits) != 1:
            return found
        owners[name] = fits[0]
    if not wrong or sorted(owners.values()) != sorted(wrong):
        return found
    name, owner = next(iter(owners.items()))
    reading.fault(
        "order", f"{name} got the vector of {owner} ({ask}, {counted(len(wrong), 'text')})"
    )
    return {**found, **{owner: found[name] for name, owner in owners.items()}}


def _close(vector: Vector, target: Vector | None, least: float) -> bool:
    """Whether the cosine reaches `least`; a text without a reference counts as close."""
    return target is None or cosine(vector, target) >= least
