"""What engine and reference share, and so cannot show each other: the checkpoint's own files.

Both pool as `1_Pooling` says and cut texts as the tokenizer's files say. Where those files are
wrong, parity is perfect and the vectors are wrong; only another source can tell: the model card,
and for last-token models the rule that something must mark the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.documents.smoke import Check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.documents.plan import CardFacts
    from launcher.documents.smoke import VerifyRequest
    from launcher.verify.observations import Reading
    from launcher.verify.reference import Reference


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with the files, the knob it points to, and what to do."""

    suspect: str
    what: str
    fix: str


# --- the model card -------------------------------------------------------------------------------


def card_check(request: VerifyRequest) -> Check:
    """The checkpoint pools, normalises and is as wide as the model card says."""
    faults = card_faults(request)
    if faults:
        return Check(name="card", ok=False, detail="; ".join(each.what for each in faults))
    if request.card is None:
        detail = "no model card names this checkpoint, so its own files are used"
        return Check(name="card", ok=True, detail=detail)
    detail = f"pooling, normalisation and width are those of model card {request.card.name}"
    return Check(name="card", ok=True, detail=detail)


def card_faults(request: VerifyRequest) -> tuple[Fault, ...]:
    """Where checkpoint and card differ, the weightiest first; without a card there are none."""
    return () if request.card is None else tuple(_card_faults(request, request.card))


def _card_faults(request: VerifyRequest, card: CardFacts) -> Iterator[Fault]:
    fix = (
        f"The checkpoint's files were changed or belong to another model: fetch it again (qlaunch "
        f"model pull {card.name}), or serve it by its folder if it is meant to differ."
    )
    if request.pooling != card.pooling:
        said = _at(request, request.pooling_source)
        what = f"{card.file} says pooling {card.pooling}, {said} says {request.pooling}"
        yield Fault("pooling", what, fix)
    if request.normalize != card.normalize:
        said = _at(request, request.normalize_source)
        words = {True: "normalised", False: "not normalised"}
        what = (
            f"{card.file} says the vectors are {words[card.normalize]}, by {said} they are "
            f"{words[request.normalize]}"
        )
        yield Fault("normalization", what, fix)
    if request.dimensions != card.dimensions:
        said = f"{_at(request, 'config.json')} makes {request.dimensions}"
        what = f"{card.file} says {card.dimensions} dimensions, {said}"
        yield Fault("dimension", what, fix)


def _at(request: VerifyRequest, source: str) -> str:
    """`source` with the model's folder before it, where it begins with a file's name."""
    return f"{request.model_path}/{source}"


# --- the tokenizer --------------------------------------------------------------------------------


def tokens_check(reading: Reading) -> Check:
    """Texts are cut into the reference's tokens, and end with the token that must end them."""
    reference = reading.evidence.reference
    if reference is None:
        asked = reading.evidence.request.parity_min > 0
        detail = "not checked: there is no reference" if asked else "skipped: not asked for"
        return Check(name="tokens", ok=not asked, detail=detail)
    if "first" not in reading.vectors:
        return Check(name="tokens", ok=False, detail="not checked: no vectors came")
    faults = token_faults(reading)
    if faults:
        return Check(name="tokens", ok=False, detail=faults[0].what)
    end = (reference.appended or ("",))[-1]
    ending = f"every text ends with {end!r}" if end else "nothing is appended to a text"
    counted = len(list(_counts(reading, reference)))
    counts = f", {counted} counts agree with the reference" if counted else ""
    return Check(name="tokens", ok=True, detail=ending + counts)


def token_faults(reading: Reading) -> tuple[Fault, ...]:
    """What is wrong with the end of texts or with their number of tokens."""
    reference = reading.evidence.reference
    if reference is None:
        return ()
    ends = _end_fault(reading.evidence.request, reference)
    found = (*_count_faults(reading, reference),) if ends is None else (ends,)
    return tuple(found)


def _end_fault(request: VerifyRequest, reference: Reference) -> Fault | None:
    if reference.appended is None:
        return None
    end = reference.appended[-1] if reference.appended else None
    says = (
        f"the tokenizer in {request.model_path} appends {end!r}"
        if end
        else (f"the tokenizer in {request.model_path} appends no end token")
    )
    fix = (
        "The last token's state is the vector, so it must be the one the model was trained to end "
        "with. Fetch a current revision of the checkpoint, whose tokenizer.json appends it "
        "(post_processor)."
    )
    wanted = request.card.end_token if request.card is not None else None
    if wanted is not None and (end or "") != wanted:
        must = f"every text must end with {wanted!r}" if wanted else "no token may end a text"
        card = request.card
        assert card is not None
        return Fault("end_token", f"{says}, but by {card.file} {must}", fix)
    if reference.declared_end and end != reference.declared_end:
        what = f"{says}, but its files say that {reference.declared_end!r} ends a text"
        return Fault("end_token", what, fix)
    if wanted is None and request.pooling == "last" and end is None:
        what = f"{says}, and the model pools the last token: whatever a text ends with decides"
        return Fault("end_token", what, fix)
    return None


def _counts(reading: Reading, reference: Reference) -> Iterator[tuple[str, int, int]]:
    """(text, tokens by the engine, by the reference) of the calls of one known text."""
    for ask in reading.evidence.asks.values():
        counted = ask.answer.tokens if ask.answer is not None else None
        if counted is not None and len(ask.names) == 1 and ask.names[0] in reference.tokens:
            yield ask.names[0], counted, reference.tokens[ask.names[0]]


def _count_faults(reading: Reading, reference: Reference) -> Iterator[Fault]:
    for name, served, known in _counts(reading, reference):
        if served == known:
            continue
        what = f"{name} has {served} tokens in the engine, {known} in the reference"
        if served == known - 1 and reference.appended:
            yield Fault(
                "end_token",
                f"{what}, which ends with {reference.appended[-1]!r}",
                "The engine leaves out the end token that the checkpoint's tokenizer appends. "
                "Compare the tokenizer files it loads; texts can be sent as token ids meanwhile.",
            )
        else:
            yield Fault(
                "tokenizer",
                what,
                "The engine cuts texts into other tokens than transformers does. Compare the "
                "tokenizer files and their versions.",
            )
