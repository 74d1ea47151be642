"""The long suite's own checks: each a pure function of what was seen, none of which ever raises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.documents.smoke import Check
from launcher.verify.edges import NOT_ASKED, Edges, Probed, edges, refused, usable
from launcher.verify.embedding_client import CallError, EmbeddingAnswer
from launcher.verify.instruction import wording
from launcher.verify.observations import Reading, cosine, norm
from launcher.verify.thresholds import norm_tolerance, same_min

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.verify.reference import Vector


@dataclass(frozen=True)
class Probes:
    """Calls at the edges of the API, whose answer may be a refusal."""

    width: int = 0
    """Dimensions asked of `cut`."""
    cut: Probed = None
    whole: Probed = None
    """The same text as in `cut`, uncut."""
    empty: tuple[Probed, ...] = ()
    """An empty text, blanks, and a batch with an empty text in it."""
    too_long: Probed = None
    edges: Edges = NOT_ASKED


def run(reading: Reading, probes: Probes) -> tuple[Check, ...]:
    """All of them, in the order people read them."""
    return (
        agree(reading, "alone_vs_batched", lambda ask: ask.startswith("alone:") or ask == "after"),
        agree(reading, "repeatable", lambda ask: ask in ("again", "instructed again")),
        agree(reading, "any_order", lambda ask: ask in ("reversed", "shuffled")),
        agree(reading, "shared_prefix", lambda ask: ask.startswith("prefix")),
        long_texts(reading),
        base64(reading),
        agree(reading, "token_ids", lambda ask: ask == "ids"),
        instruction(reading),
        dimensions(reading, probes),
        empty(probes.empty),
        too_long(reading, probes.too_long),
        edges(probes.edges, vectors=not reading.faults),
    )


# --- whether answers to one text agree ------------------------------------------------------------


def baseline(reading: Reading) -> dict[str, tuple[str, Vector]]:
    """The first usable answer to every text, with its call."""
    found: dict[str, tuple[str, Vector]] = {}
    for ask, vectors in reading.vectors.items():
        for name, vector in vectors.items():
            found.setdefault(name, (ask, vector))
    return found


def agree(reading: Reading, check: str, of: Callable[[str], bool]) -> Check:
    """Every answer of the calls `of` is the first answer to its text."""
    asks = [ask for ask in reading.evidence.asks.values() if of(ask.name)]
    if not asks:
        return Check(name=check, ok=True, detail="left out: nothing of this kind was asked")
    failed = next((ask for ask in asks if ask.error is not None), None)
    if failed is not None:
        detail = f"the call {failed.name!r} failed: {failed.error}"
        return Check(name=check, ok=False, detail=detail)
    first, least = baseline(reading), same_min(reading.evidence.request.dtype)
    pairs = [
        (cosine(first[name][1], vector), name, ask.name)
        for ask in asks
        for name, vector in reading.vectors.get(ask.name, {}).items()
        if first[name][0] != ask.name
    ]
    if not pairs:
        return _unchecked(check, "no two usable answers to one text came")
    worst, name, call = min(pairs)
    if not worst >= least:
        detail = f"{name}: cosine {worst:.5f} between {first[name][0]!r} and {call!r}, at least "
        return Check(name=check, ok=False, detail=f"{detail}{least}")
    return Check(name=check, ok=True, detail=f"{len(pairs)} pairs, least cosine {worst:.5f}")


def long_texts(reading: Reading) -> Check:
    """Texts up to the context are taken whole, and are the same again and beside short ones."""
    asks = [a for a in reading.evidence.asks.values() if a.name.startswith("long:")]
    done = agree(reading, "long_texts", lambda ask: ask.startswith("long "))
    if not asks:
        return Check(name="long_texts", ok=True, detail="left out: no text of an exact length")
    failed = next((ask for ask in asks if ask.error is not None), None)
    if failed is not None:
        length = failed.name.partition(":")[2]
        detail = f"a text of {length} tokens failed: {failed.error}"
        return Check(name="long_texts", ok=False, detail=detail)
    if not done.ok:
        return done
    most = asks[-1].name.partition(":")[2]
    known = reading.evidence.reference
    compared = known is not None and asks[-1].name in known.vectors
    note = "" if compared or known is None else "; the longest was compared with itself only"
    return Check(name="long_texts", ok=True, detail=f"up to {most} tokens: {done.detail}{note}")


def base64(reading: Reading) -> Check:
    """Base64 holds the very numbers that decimal notation does (float32 both)."""
    done = agree(reading, "base64", lambda ask: ask in ("base64", "default"))
    if not done.ok or "base64" not in reading.vectors:
        return done
    first = baseline(reading)
    gaps = [
        abs(a - b)
        for name, vector in reading.vectors["base64"].items()
        for a, b in zip(first[name][1], vector, strict=True)
    ]
    if not gaps:
        return done
    detail = f"{done.detail}, largest difference of a number {max(gaps):.1e}"
    return Check(name="base64", ok=True, detail=detail)


def instruction(reading: Reading) -> Check:
    """What the model wants before a query reaches the model: it turns the query's vector."""
    card = reading.evidence.request.card
    if not wording(reading.evidence.request).query("").strip():
        said = "no model card" if card is None else f"model card {card.name} names none"
        detail = f"none: {said}, and the checkpoint has no prompt for queries"
        return Check(name="instruction", ok=True, detail=detail)
    call = reading.evidence.asks.get("instructed")
    if call is None:
        return Check(name="instruction", ok=True, detail="left out: it was not asked")
    if call.error is not None:
        detail = f"the call 'instructed' failed: {call.error}"
        return Check(name="instruction", ok=False, detail=detail)
    first = baseline(reading)
    turned = {
        name: cosine(vector, first[plain][1])
        for name, vector in reading.vectors.get("instructed", {}).items()
        if (plain := name.partition(":")[2]) in first
    }
    if not turned:
        return _unchecked("instruction", "no usable vectors of queries came")
    # The very same vector, not a close one: how far an instruction turns is the model's affair.
    same = [name for name, value in turned.items() if value >= 1 - 1e-6]
    if same:
        detail = f"{same[0]} has the vector of the plain query: the instruction does not arrive"
        return Check(name="instruction", ok=False, detail=detail)
    most = max(turned.values())
    detail = f"{len(turned)} queries turn by it, cosine with the plain query at most {most:.3f}"
    return Check(name="instruction", ok=True, detail=detail)


# --- the edges of the API -------------------------------------------------------------------------


def dimensions(reading: Reading, probes: Probes) -> Check:
    """Vectors asked in fewer dimensions are cut first, then normalised (Matryoshka)."""
    name, request = "dimensions", reading.evidence.request
    claimed = request.card is not None and request.card.matryoshka
    claim = "the model card says vectors may be cut, but " if claimed else ""
    if probes.cut is None or not isinstance(probes.whole, EmbeddingAnswer):
        return _unchecked(name, "the call for fewer dimensions was not made")
    if isinstance(probes.cut, CallError):
        answered = f"asked for {probes.width} of {request.dimensions}: {probes.cut}"
        return Check(name=name, ok=refused(probes.cut) and not claimed, detail=f"{claim}{answered}")
    cut, whole = _one(probes.cut), _one(probes.whole)
    if len(cut) != probes.width:
        detail = f"{claim}{probes.width} numbers were asked for and {len(cut)} came"
        ignored = len(cut) == request.dimensions
        return Check(name=name, ok=ignored and not claimed, detail=detail)
    turned = cosine(cut, whole[: probes.width])
    least = same_min(request.dtype)
    if not turned >= least:
        detail = f"cosine {turned:.5f} with the first {probes.width} numbers of the whole vector"
        return Check(name=name, ok=False, detail=f"{detail}, at least {least}")
    if request.normalize and not abs(norm(cut) - 1) <= norm_tolerance(request.dtype):
        detail = f"a vector cut to {probes.width} has length {norm(cut):.4f}: cut after normalising"
        return Check(name=name, ok=False, detail=detail)
    detail = f"cut to {probes.width}, then normalised; cosine {turned:.5f} with the vector's begin"
    return Check(name=name, ok=True, detail=detail)


def empty(found: tuple[Probed, ...]) -> Check:
    """Empty input is refused with a reason, or has vectors that are vectors."""
    words = ("an empty text", "a blank text", "a batch with an empty text")
    if not found:
        return _unchecked("empty", "it was not asked")
    for what, probe in zip(words, found, strict=True):
        if isinstance(probe, CallError) and not refused(probe):
            return Check(name="empty", ok=False, detail=f"{what}: {probe}")
        if isinstance(probe, EmbeddingAnswer) and not all(
            usable(each.vector) for each in probe.items
        ):
            detail = f"{what} is answered with an invalid vector (zero, NaN or null)"
            return Check(name="empty", ok=False, detail=detail)
    answered = sum(isinstance(probe, EmbeddingAnswer) for probe in found)
    shown = next((str(probe) for probe in found if isinstance(probe, CallError)), "")
    said = f"refused: {shown}" if shown else "answered with usable vectors"
    return Check(name="empty", ok=True, detail=f"{said} ({answered} of {len(found)} answered)")


def too_long(reading: Reading, probe: Probed) -> Check:
    """A text beyond the context is refused with a reason, or cut and counted as cut."""
    limit = reading.evidence.request.context_length
    if probe is None:
        return _unchecked("too_long", "it was not asked")
    if isinstance(probe, CallError):
        return Check(name="too_long", ok=refused(probe), detail=f"{probe}")
    if probe.tokens is None:
        detail = f"a text longer than {limit} tokens is answered, and nothing says it was cut"
        return Check(name="too_long", ok=False, detail=detail)
    if probe.tokens > limit:
        detail = f"{probe.tokens} tokens are answered, but the model has {limit} positions"
        return Check(name="too_long", ok=False, detail=detail)
    right = all(usable(each.vector) for each in probe.items)
    detail = f"cut to {probe.tokens} tokens, which the answer's count says"
    return Check(name="too_long", ok=right, detail=detail if right else f"{detail}; no vector")


def _one(answer: EmbeddingAnswer) -> Vector:
    return answer.items[0].vector if answer.items else []


def _unchecked(name: str, why: str) -> Check:
    return Check(name=name, ok=False, detail=f"not checked: {why}")
