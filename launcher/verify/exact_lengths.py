"""Texts of an exact number of tokens, found by asking: the launcher has no tokenizer of its own.

The engine's own count of a text (`usage`) is what decides, so the length is exact whatever the
tokenizer, and the same text comes out every time, as the cache of references needs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.verify.corpus import FILLER, PASSAGE
from launcher.verify.embedding_client import CallError
from launcher.verify.texts import Text

if TYPE_CHECKING:
    from launcher.verify.timed_session import Session

SHARE = 0.35
"""Part of the time that the longest text may take, with all calls it is asked in."""
CALLS = 4
"""Calls that hold the longest text: finding it, itself, again, and beside others."""
STEPS = (512, 2048)
"""Lengths asked on the way to the longest."""
SHORTFALL = 8
"""Tokens the first attempt stays below its goal: one too many is refused and counts nothing."""
TRIES = 4


@dataclass(frozen=True)
class Ruler:
    """What the engine counts for the pieces of a made text."""

    passage: int
    filler: int
    around: int
    """Tokens the tokenizer itself puts around a text."""

    def compose(self, tokens: int) -> tuple[int, int]:
        """(passages, fillers) of a text of about `tokens` tokens, never more."""
        passages, rest = divmod(max(tokens - self.around, 0), self.passage)
        return passages, rest // self.filler


def text_of(passages: int, fillers: int) -> str:
    """The made text; without passages it is fillers alone."""
    return ((PASSAGE * passages).strip() + FILLER * fillers).strip()


def make_ruler(session: Session) -> Ruler | None:
    """Measure the pieces; None where the engine does not count, or refuses even these."""
    counts = [_count(session, text) for text in (text_of(1, 0), text_of(2, 0), text_of(1, 8))]
    one, two, filled = counts
    if one is None or filled is None:
        return None
    filler = (filled - one) // 8
    passage = (two or 0) - one
    # Where two passages are more than the context takes, one with its marks counts for it.
    passage = passage if passage > 0 else one
    return Ruler(passage, filler, max(one - passage, 0)) if filler > 0 else None


def _count(session: Session, text: str) -> int | None:
    found = session.once([text])
    return None if isinstance(found, CallError) else found.tokens


def exact(session: Session, ruler: Ruler, tokens: int) -> Text | None:
    """A text that the engine counts as `tokens`, named `long:TOKENS`; None if none was found."""
    passages, fillers = ruler.compose(tokens - SHORTFALL)
    for _ in range(TRIES):
        counted = _count(session, text_of(passages, fillers))
        if counted is None or session.over:
            return None
        if counted == tokens:
            return Text(f"long:{tokens}", text_of(passages, fillers))
        fillers += (tokens - counted) // ruler.filler or (1 if counted < tokens else -1)
        if fillers < 0:
            return None
    return None


def longest(session: Session, whole: int) -> int:
    """Tokens of the longest text to ask: the engine takes `whole`, the budget perhaps less.

    What the budget cuts is cut to a power of two, so that the next run asks the same text and
    finds its reference in the cache.
    """
    affordable = session.tokens_for(session.seconds * SHARE) / CALLS
    if affordable >= whole:
        return whole
    cut = 1 << max(int(affordable).bit_length() - 1, 0)
    assert session.rate is not None  # without a rate everything is affordable
    session.left_out.append(
        f"texts of {cut + 1} to {whole} tokens: at {session.rate:.0f} tokens/s one of the longest "
        f"takes {whole / session.rate:.0f} s"
    )
    return cut


def make_long(session: Session, whole: int) -> tuple[Text, ...]:
    """Texts of the lengths worth asking, the longest last; none where that is not possible.

    Args:
        session: to ask by.
        whole: tokens of the longest input that is answered.
    """
    if session.over:
        return ()
    ruler = make_ruler(session)
    if ruler is None:
        session.left_out.append("texts of an exact length: the engine does not count tokens")
        return ()
    most = longest(session, whole)
    lengths = [*(step for step in STEPS if step < most), most]
    found = [exact(session, ruler, length) for length in lengths]
    session.left_out += [
        f"a text of {length} tokens: none was found that the engine takes and counts so"
        for length, text in zip(lengths, found, strict=True)
        if text is None
    ]
    return tuple(text for text in found if text is not None)


def beyond(context: int) -> str:
    """A text surely longer than `context` tokens: no tokenizer takes two words for one token."""
    return text_of(context // len(PASSAGE.split()) + 2, 0)
