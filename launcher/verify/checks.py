"""The smoke's checks: each a pure function of the evidence, none of which ever raises.

A check that could not be made is not ok, and its detail begins with `not checked`: the fault is in
another check, and `was_made` tells the two apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.documents.smoke import Check
from launcher.units import counted
from launcher.verify import texts
from launcher.verify.card_and_token_checks import card_check, tokens_check
from launcher.verify.observations import Ask, Reading, cosine, norm
from launcher.verify.thresholds import clear_margin, norm_tolerance, same_min

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from launcher.verify.reference import Vector

_NOT_CHECKED = "not checked: "


def was_made(check: Check) -> bool:
    """Whether `check` says something of its own subject."""
    return not check.detail.startswith(_NOT_CHECKED)


def run(reading: Reading, parity: Parity) -> tuple[Check, ...]:
    """All checks, in the order people read them."""
    return (
        count(reading),
        order(reading),
        dimension(reading),
        finite(reading),
        unit_norm(reading),
        alone_vs_batched(reading),
        repeatable(reading),
        related_closer(reading),
        overflow(reading),
        parity_check(reading, parity),
        tokens_check(reading),
        card_check(reading.evidence.request),
    )


# --- what the answers look like -------------------------------------------------------------------


def count(reading: Reading) -> Check:
    """As many vectors as texts; and, first of all, an answer."""
    first = reading.evidence.asks.get("first")
    if first is None or first.answer is None:
        return Check(name="count", ok=False, detail=f"no vectors came: {_why(first)}")
    sent = sum(len(ask.names) for ask in reading.evidence.asks.values() if ask.answer)
    left_out = reading.evidence.left_out
    context = reading.evidence.request.context_length
    note = f"; {len(left_out)} longer than {context} tokens were not sent" if left_out else ""
    return _by_faults(reading, "count", f"{counted(sent, 'text')}, {counted(sent, 'vector')}{note}")


def order(reading: Reading) -> Check:
    """Every vector came with its own index, in ascending order, and belongs to that text."""
    return _by_faults(reading, "order", "every vector at the index of its text")


def dimension(reading: Reading) -> Check:
    """Every vector has the width the checkpoint says."""
    return _by_faults(reading, "dimension", f"{reading.evidence.request.dimensions} numbers each")


def finite(reading: Reading) -> Check:
    """No NaN, infinity or null, and no vector of zeros."""
    return _by_faults(reading, "finite", "every number is finite, no vector is zero")


def _by_faults(reading: Reading, name: str, fine: str) -> Check:
    faults = reading.faults.get(name)
    if faults:
        more = f"; and {len(faults) - 1} more like it" if len(faults) > 1 else ""
        return Check(name=name, ok=False, detail=faults[0] + more)
    if "first" not in reading.vectors:
        return _unchecked(name, "the first call brought no vectors")
    return Check(name=name, ok=True, detail=fine)


def unit_norm(reading: Reading) -> Check:
    """Every vector has length 1, where the model normalises."""
    request = reading.evidence.request
    if not request.normalize:
        detail = "skipped: the checkpoint does not normalise its vectors"
        return Check(name="unit_norm", ok=True, detail=detail)
    lengths = [
        (norm(vector), name, ask)
        for ask, found in reading.vectors.items()
        for name, vector in found.items()
    ]
    if not lengths:
        return _unchecked("unit_norm", "no usable vector came")
    worst, name, ask = max(lengths, key=lambda each: abs(each[0] - 1))
    limit = norm_tolerance(request.dtype)
    if not abs(worst - 1) <= limit:
        detail = f"{name} has length {worst:.4f}, farther than {limit:g} from 1 ({ask})"
        return Check(name="unit_norm", ok=False, detail=detail)
    detail = f"lengths within {abs(worst - 1):.1e} of 1"
    return Check(name="unit_norm", ok=True, detail=detail)


# --- whether answers agree with each other --------------------------------------------------------


def alone_vs_batched(reading: Reading) -> Check:
    """The same text alone, in a batch, and in the batch reversed, has the same vector."""
    asks = ["reversed", *(f"alone:{name}" for name in texts.ALONE)]
    return same_as_first(reading, "alone_vs_batched", asks)


def repeatable(reading: Reading) -> Check:
    """The same texts asked again have the same vectors, also in the client's default format."""
    return same_as_first(reading, "repeatable", ["again", "default"])


def same_as_first(reading: Reading, check: str, asks: Iterable[str]) -> Check:
    """Every text of `asks` has the vector it had in the first call."""
    evidence = reading.evidence
    first, least = reading.vectors.get("first", {}), same_min(evidence.request.dtype)
    pairs: list[tuple[float, str, str]] = []
    for ask in asks:
        call = evidence.asks.get(ask)
        if call is not None and call.error is not None:
            detail = f"the call {ask!r} failed: {call.error}"
            return Check(name=check, ok=False, detail=detail)
        for name, vector in reading.vectors.get(ask, {}).items():
            if name in first:
                pairs.append((cosine(first[name], vector), name, ask))
    if not pairs:
        return _unchecked(check, "no two usable answers to one text came")
    worst, name, ask = min(pairs)
    if not worst >= least:
        detail = f"{name}: cosine {worst:.5f} between the first call and {ask!r}, at least {least}"
        return Check(name=check, ok=False, detail=detail)
    return Check(name=check, ok=True, detail=f"{len(pairs)} pairs, least cosine {worst:.5f}")


# --- whether answers mean something ---------------------------------------------------------------


def related_closer(reading: Reading) -> Check:
    """A text is closer to one of like meaning than to one of another meaning."""
    first = reading.vectors.get("first", {})
    reference = reading.evidence.reference
    left_out = reading.evidence.left_out
    sent = [triple for triple in texts.TRIPLES if left_out.isdisjoint(triple)]
    seen = [triple for triple in sent if all(name in first for name in triple)]
    if not sent:
        detail = "skipped: the related texts are longer than the model's context"
        return Check(name="related_closer", ok=True, detail=detail)
    if not seen:
        return _unchecked("related_closer", "no usable vectors of the related texts came")
    clear = clear_margin(reading.evidence.request.dtype)
    fair = [t for t in seen if reference is None or margin(reference.vectors, t) > clear]
    wrong = [triple for triple in fair if not margin(first, triple) > 0]
    if wrong:
        anchor, near, far = wrong[0]
        detail = (
            f"{anchor} is no closer to {near} ({cosine(first[anchor], first[near]):.3f}) than to "
            f"{far} ({cosine(first[anchor], first[far]):.3f})"
        )
        return Check(name="related_closer", ok=False, detail=detail)
    if not fair:
        detail = "skipped: the reference does not clearly tell related from unrelated texts"
        return Check(name="related_closer", ok=True, detail=detail)
    return Check(name="related_closer", ok=True, detail=f"{len(fair)} of {len(fair)} triples")


def margin(vectors: Mapping[str, Vector], triple: tuple[str, str, str]) -> float:
    """By how much the anchor is closer, as a cosine, to the related text than to the other."""
    anchor, near, far = (vectors[name] for name in triple)
    return cosine(anchor, near) - cosine(anchor, far)


@dataclass(frozen=True)
class Parity:
    """Cosines of served vectors with the reference, or why there are none."""

    cosines: tuple[tuple[float, str, str], ...] = ()
    """(cosine, text name, call)."""
    reason: str | None = None
    broken_weights: bool = False
    """The reference itself is not finite, or zero."""

    @property
    def worst(self) -> tuple[float, str, str] | None:
        """The least cosine with its text and call."""
        return min(self.cosines, default=None)

    @property
    def mean(self) -> float | None:
        """Mean cosine over all answers."""
        if not self.cosines:
            return None
        return math.fsum(each for each, _, _ in self.cosines) / len(self.cosines)


def measure_parity(reading: Reading) -> Parity:
    """Cosine of every usable answer with the reference of its text."""
    reference, status = reading.evidence.reference, reading.evidence.outcome.status
    if reference is None and not any(reading.vectors.values()):
        return Parity()  # nothing came that could be compared, whatever the reference
    if reference is None:
        return Parity(reason=f"no reference: {status.removeprefix('unavailable: ')}")
    for name, vector in reference.vectors.items():
        if not math.isfinite(sum(vector)) or norm(vector) == 0:
            why = f"the checkpoint itself gives NaN, infinity or only zeros in float32 ({name})"
            return Parity(reason=why, broken_weights=True)
    width = len(next(iter(reference.vectors.values())))
    expected = reading.evidence.request.dimensions
    if width != expected:
        return Parity(reason=f"the reference has {width} numbers a vector, {expected} are expected")
    return Parity(
        tuple(
            (cosine(vector, reference.vectors[name]), name, ask)
            for ask, name, vector in reading.compared()
        )
    )


def parity_check(reading: Reading, parity: Parity) -> Check:
    """Every answer to every text points where the checkpoint's own float32 vector does."""
    least = reading.evidence.request.parity_min
    worst, mean = parity.worst, parity.mean
    if least <= 0:
        found = f"; worst cosine {worst[0]:.5f}" if worst else f"; {parity.reason}"
        return Check(name="parity", ok=True, detail=f"skipped: not asked for{found}")
    if parity.reason is not None:
        return Check(name="parity", ok=False, detail=parity.reason)
    if worst is None or mean is None:
        return _unchecked("parity", "no usable vectors came")
    cosine_, name, ask = worst
    if not cosine_ >= least:
        bad = len({each for value, each, _ in parity.cosines if not value >= least})
        detail = f"{name}: cosine {cosine_:.5f} with the reference ({ask}), at least {least} asked"
        more = f"; {counted(bad, 'text')} miss it" if bad > 1 else ""
        return Check(name="parity", ok=False, detail=detail + more)
    known = len({each for _, each, _ in parity.cosines})
    answers = counted(len(parity.cosines), "answer")
    detail = f"{counted(known, 'text')} in {answers}: worst cosine {cosine_:.5f} ({name})"
    return Check(name="parity", ok=True, detail=f"{detail}, mean {mean:.5f}")


# --- whether the engine survives more than it runs at once ----------------------------------------


def overflow(reading: Reading) -> Check:
    """A call with more inputs than the engine runs at once is answered, and so is the next one.

    SGLang issue 22518: such a batch left the scheduler full for ever, while `/health` said 200.
    """
    asks = reading.evidence.asks
    large, after = asks.get("overflow"), asks.get("after")
    if large is None or (large.answer is None and large.error is None):
        return _unchecked("overflow", "an earlier call got no answer")
    size = len(large.names)
    if large.error is not None:
        detail = f"the call with {size} inputs failed: {large.error}"
        return Check(name="overflow", ok=False, detail=detail)
    if after is None or after.answer is None:
        detail = f"the call after the one with {size} inputs failed: {_why(after)}"
        return Check(name="overflow", ok=False, detail=detail)
    limit = reading.evidence.request.max_running_requests
    if size <= limit:
        detail = f"{size} inputs answered; more than {limit} would take too long to ask for"
        return Check(name="overflow", ok=True, detail=detail)
    detail = f"{size} inputs against {limit} at once, and the next call answered"
    return Check(name="overflow", ok=True, detail=detail)


def _why(ask: Ask | None) -> str:
    return str(ask.error) if ask is not None and ask.error is not None else "it was not made"


def _unchecked(name: str, why: str) -> Check:
    return Check(name=name, ok=False, detail=_NOT_CHECKED + why)
