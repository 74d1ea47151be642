"""Whether a verified engine still gives the vector that was proved. Pure: it asks nobody.

The smoke has compared the beat's text with the checkpoint's own vector; what it got is kept, and
every later answer to the same text is compared with it. The bounds are those between two answers
of one engine (verify/thresholds.py): rounding, and the company that a text has in its batch.
"""

from __future__ import annotations

import array
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.verify.observations import FLOAT32_MAX, cosine, norm
from launcher.verify.thresholds import norm_tolerance, same_min

Numbers = Sequence[float]

ODD_LIMIT = 3
"""Answers of one life that a second look did not confirm, before it counts as changed: an engine
that gives a wrong vector now and then is no better than one that always does."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look at the vectors found."""

    cosine: float | None
    """Least cosine with the proved vector; None where none could be compared."""
    fault: str = ""
    """What is wrong with them; empty: they are the proved one."""


class Proof:
    """The proved vector, and the answers to the same text since.

    Without a proved vector (a context too short for the text) the first sound answer is taken for
    it: what came before that nobody can tell.
    """

    def __init__(self, proved: Numbers | None, *, dimensions: int, dtype: str) -> None:
        self._proved = None if proved is None else array.array("f", proved)
        self._dimensions = dimensions
        self._least, self._stretch = same_min(dtype), norm_tolerance(dtype)
        self._doubt: Finding | None = None
        self.odd = 0
        """Wrong answers that a second look did not confirm."""

    @property
    def proved(self) -> Numbers | None:
        """The vector that others are compared with; None before the first."""
        return self._proved

    @property
    def in_doubt(self) -> bool:
        """Whether the last answer was wrong, and a second look has to say if it stays so."""
        return self._doubt is not None

    def look(self, vectors: Sequence[object]) -> Finding:
        """Compare the answers to one call; several are those of several replicas."""
        findings = [self._compare(each) for each in vectors] or [Finding(None, "no vector came")]
        faulty = next((each for each in findings if each.fault), None)
        return faulty or min(findings, key=lambda each: each.cosine or 0.0)

    def doubt(self, finding: Finding) -> None:
        """A wrong answer was seen for the first time."""
        self._doubt = finding

    def clear(self) -> Finding | None:
        """A right answer came; the wrong one before it, if there was one."""
        doubt, self._doubt = self._doubt, None
        self.odd += doubt is not None
        return doubt

    def _compare(self, vector: object) -> Finding:
        if not isinstance(vector, list) or len(vector) != self._dimensions:
            return Finding(None, f"it does not have {self._dimensions} dimensions")
        if not all(type(x) in {int, float} and abs(x) <= FLOAT32_MAX for x in vector):
            return Finding(None, "it holds values that are not finite")
        length = norm(vector)
        if length == 0:
            return Finding(None, "every number is 0")
        if self._proved is None:
            self._proved = array.array("f", vector)
        close, proved = cosine(vector, self._proved), norm(self._proved)
        if not close >= self._least:
            fault = (
                f"its cosine with the proved vector is {close:.5f}, at least {self._least} asked"
            )
            return Finding(close, fault)
        if not abs(length / proved - 1) <= self._stretch:
            return Finding(close, f"its length is {length:.4f}, and was {proved:.4f} when proved")
        return Finding(close)
