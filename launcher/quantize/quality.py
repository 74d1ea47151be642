"""Whether a quantised checkpoint still gives the vectors of the model it was made from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from launcher.quantize.formats import Format
from launcher.verify import quality
from launcher.verify.corpus import CORPUS
from launcher.verify.instruction import Wording
from launcher.verify.observations import cosine
from launcher.verify.texts import Text

Vector = Sequence[float]


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Vectors of the quantised weights beside the float32 ones, computed on the CPU."""

    texts: int
    cosine_worst: float
    cosine_mean: float
    worst_text: str
    recall_at_10: float
    recall_at_10_float32: float

    @property
    def recall_loss(self) -> float:
        """How far recall@10 fell."""
        return self.recall_at_10_float32 - self.recall_at_10


def calibration() -> list[str]:
    """Texts that the activations' ranges are taken from: the long suite's, in 31 languages."""
    return [each.text for each in CORPUS]


def texts(wording: Wording) -> tuple[Text, ...]:
    """What is compared: the retrieval set, worded as the model wants it, and the long suite."""
    return (*quality.worded(quality.load_set(), wording), *CORPUS)


def measure(asked: Sequence[Text], reference: Sequence[Vector], made: Sequence[Vector]) -> Measured:
    """Compare vectors of `asked`, in its order.

    Raises:
        ValueError: counts or widths differ.
    """
    pairs = zip(reference, made, strict=True)
    # A vector that is no number, or zero, is as far from the model's as one can be.
    cosines = [c if math.isfinite(c) else -1.0 for c in (cosine(a, b) for a, b in pairs)]
    names = [each.name for each in asked]
    found = quality.load_set()
    return Measured(
        texts=len(asked),
        cosine_worst=min(cosines),
        cosine_mean=math.fsum(cosines) / len(cosines),
        worst_text=names[cosines.index(min(cosines))],
        recall_at_10=quality.recall(found, _by_name(names, made)),
        recall_at_10_float32=quality.recall(found, _by_name(names, reference)),
    )


def _by_name(names: Sequence[str], vectors: Sequence[Vector]) -> Mapping[str, list[float]]:
    return {name: list(vector) for name, vector in zip(names, vectors, strict=True)}


def shortfalls(measured: Measured, wanted: Format) -> list[str]:
    """What is worse than `wanted` allows, in words; empty where it may be kept."""
    failed = []
    if not measured.cosine_worst >= wanted.worst_cosine:
        failed.append(
            f"the worst cosine is {measured.cosine_worst:.4f} ({measured.worst_text}),"
            f" {wanted.worst_cosine:g} is asked"
        )
    if not measured.cosine_mean >= wanted.mean_cosine:
        failed.append(
            f"the mean cosine is {measured.cosine_mean:.4f}, {wanted.mean_cosine:g} is asked"
        )
    if not measured.recall_loss <= wanted.recall_loss:
        failed.append(
            f"recall@10 fell from {measured.recall_at_10_float32:.4f} to"
            f" {measured.recall_at_10:.4f}, by more than {wanted.recall_loss:g}"
        )
    return failed
