"""Shorter vectors of a model that was trained for it (Matryoshka), made of the whole one.

The engine cuts and then normalises, and so does this: one entry answers every `dimensions`.
"""

from __future__ import annotations

import math
import sys
from array import array

import msgspec

from launcher.gateway.answer import numbers_of
from launcher.gateway.problems import RequestError


class Cuts(msgspec.Struct, frozen=True, kw_only=True):
    """How a model's vectors may be cut."""

    normalize: bool
    """Whether what is left gets length 1."""
    sizes: frozenset[int] | None = None
    """The only numbers of dimensions that its engine answers; None: all."""

    def allows(self, dimensions: int) -> bool:
        """Whether the engine would answer."""
        return self.sizes is None or dimensions in self.sizes


def cut(vector: bytes, dimensions: int, *, normalize: bool) -> bytes:
    """The first numbers of a vector (float32, little-endian), as the engine would answer them.

    Raises:
        RequestError: 502: they are all zero.
    """
    if 4 * dimensions == len(vector):
        return vector
    beginning = vector[: 4 * dimensions]
    if not normalize:
        return beginning
    numbers = numbers_of(beginning)
    length = math.hypot(*numbers)
    if not length:
        text = f"the first {dimensions} numbers of a vector are zero"
        raise RequestError(502, "upstream_wrong", text)
    shorter = array("f", [number / length for number in numbers])
    if sys.byteorder == "big":
        shorter.byteswap()
    return shorter.tobytes()
