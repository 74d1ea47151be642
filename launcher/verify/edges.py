"""The largest input that is answered and the smallest that is refused, by token ids and by text.

One token too many has ended engines: a RoBERTa of 514 positions holds 512 tokens, and its server
took 513. So both edges are tried, exactly: what the plan says is answered has a vector, one token
more is refused with a reason, and the engine answers afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.documents.smoke import Check
from launcher.verify import texts
from launcher.verify.corpus import FILLER
from launcher.verify.embedding_client import CallError, EmbeddingAnswer
from launcher.verify.observations import FLOAT32_MAX, norm

if TYPE_CHECKING:
    from launcher.documents.smoke import VerifyRequest
    from launcher.verify.reference import Vector
    from launcher.verify.timed_session import Session

Probed = EmbeddingAnswer | CallError | None
"""What a call brought; None: it was not made."""

EDGE_S = 1.0
"""Longest time that an answered edge may take in the smoke, each of the two, at the rate seen."""
ALWAYS = 512
"""Tokens up to which it is tried whatever the rate: half a second beside other work, and the
lengths at which tables of positions end."""
TOKEN = 5
"""An id that every vocabulary has: only the number of them matters here."""

SIZES = (4, 12)
"""Words of the texts by which the engine's own count is taken: small enough for any context."""


@dataclass(frozen=True)
class Edges:
    """What came of the calls at the edges."""

    most: int = 0
    """Tokens of the largest input that is answered; 0: nothing was asked."""
    cuts: bool = False
    """Longer ones are cut on purpose, so nothing is refused."""
    left_out: str = ""
    """Why the answered edge was not tried; empty: it was."""
    uncounted: bool = False
    """No text of an exact length could be made: the engine does not count tokens, or otherwise."""
    ids: Probed = None
    """`most` token ids."""
    text: Probed = None
    """A text of `most` tokens."""
    more_ids: Probed = None
    """One id more."""
    more_text: Probed = None
    """A text of one token more."""
    alive: Probed = None
    """A short text after them."""


NOT_ASKED = Edges()


def ask_edges(session: Session, request: VerifyRequest, seconds: float) -> Edges:
    """Ask at the edges; answered ones where each takes at most `seconds` at the session's rate."""
    most = request.longest
    if session.over or most < 1:
        return NOT_ASKED
    left_out = ""
    if most > ALWAYS and most > session.tokens_for(seconds):
        assert session.rate is not None  # without a rate everything is affordable
        left_out = f"at {session.rate:.0f} tokens/s it takes {most / session.rate:.0f} s"
    # What may end an engine comes last: what is right by then is known.
    ids = None if left_out else session.once([[TOKEN] * most])
    exact = _text_of(session, most)
    text = None if left_out or exact is None else session.once([exact])
    if isinstance(text, EmbeddingAnswer) and text.tokens != most:
        exact = text = None
    more_text = more_ids = None
    if not request.cuts_texts:
        more_text = None if exact is None else session.once([exact + FILLER])
        more_ids = session.once([[TOKEN] * (most + 1)])
    return Edges(
        most=most,
        cuts=request.cuts_texts,
        left_out=left_out,
        uncounted=exact is None,
        ids=ids,
        text=text,
        more_ids=more_ids,
        more_text=more_text,
        alive=session.once([texts.BY_NAME[texts.AFTER]]),
    )


def _text_of(session: Session, tokens: int) -> str | None:
    """A text of `tokens` tokens; None where the engine does not count, or a filler is not one."""
    counts = [session.once([_filled(size)]) for size in SIZES]
    few, more = (each.tokens if isinstance(each, EmbeddingAnswer) else None for each in counts)
    if few is None or more is None or more - few != SIZES[1] - SIZES[0]:
        return None
    size = tokens - (few - SIZES[0])
    return _filled(size) if size > 0 else None


def _filled(size: int) -> str:
    return (FILLER * size).strip()


def edges(found: Edges, *, vectors: bool = True) -> Check:
    """Both edges are where the plan says, and the engine lives.

    Without `vectors` what is answered is not looked at: others are no vectors either.
    """
    if found.most == 0:
        return _check("not checked: an earlier call got no answer", ok=False)
    fault = _fault(found, vectors=vectors)
    if fault:
        return _check(fault, ok=False)
    most, ways = found.most, "by ids" if found.uncounted else "by text and by ids"
    said = f"{most} tokens answered"
    if found.left_out:
        said = f"{most} tokens not asked ({found.left_out})"
    if found.cuts:
        return _check(f"{said}, {ways}; longer inputs are cut to fit")
    return _check(f"{said}, {most + 1} refused, {ways}")


def _fault(found: Edges, *, vectors: bool) -> str:
    """What is wrong at the edges, the first of it; empty where nothing is."""
    for what, probe in (("token ids", found.ids), ("tokens of text", found.text)):
        if isinstance(probe, CallError):
            return f"{found.most} {what} are not answered: {probe}"
        if isinstance(probe, EmbeddingAnswer) and vectors and not _usable(probe):
            return f"{found.most} {what} are answered with an invalid vector"
    more = found.most + 1
    for what, probe in (("token ids", found.more_ids), ("tokens of text", found.more_text)):
        if isinstance(probe, EmbeddingAnswer):
            return f"{more} {what} are answered, but only {found.most} fit: the vector is wrong"
        if isinstance(probe, CallError) and not refused(probe):
            return f"{more} {what} are not refused with a reason: {probe}"
    if isinstance(found.alive, CallError):
        return f"the call after {more} tokens failed: {found.alive}"
    return ""


def refused(error: CallError) -> bool:
    """Whether the server said no, and why: a 4xx with some words in it."""
    said = str(error).partition(":")[2].strip()
    return error.status is not None and 400 <= error.status < 500 and len(said) >= 10


def _usable(answer: EmbeddingAnswer) -> bool:
    return bool(answer.items) and all(usable(each.vector) for each in answer.items)


def usable(vector: Vector) -> bool:
    """Whether `vector` is finite and not zero."""
    return bool(vector) and all(abs(x) <= FLOAT32_MAX for x in vector) and norm(vector) > 0


def _check(detail: str, *, ok: bool = True) -> Check:
    return Check(name="edges", ok=ok, detail=detail)
