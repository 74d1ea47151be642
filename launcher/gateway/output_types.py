"""Vectors as numbers of fewer bits, each made of the float32 vector alone.

float16: each number rounded to nearest.
int8: each number divided by the largest absolute number of its vector, times 127, rounded; the
  answer says that factor as `scale`, so that number x scale is the float32 number again, nearly.
binary, ubinary: one bit a number, 1 where it is greater than 0, the first number in the highest
  bit of the first byte, the last byte filled up with 0; `binary` is that byte less 128, as
  sentence-transformers and Cohere have it.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from typing import Final

import msgspec

from launcher.gateway.request import OutputType

_MOST: Final = 127
_FORMATS: Final[dict[OutputType, str]] = {
    "float32": "f",
    "float16": "e",
    "int8": "b",
    "binary": "b",
    "ubinary": "B",
}


class Typed(msgspec.Struct, frozen=True):
    """A vector in the type that was asked for."""

    numbers: Sequence[float]
    type: OutputType
    scale: float | None = None
    """Of int8."""

    def packed(self) -> bytes:
        """Little-endian bytes."""
        return struct.pack(f"<{len(self.numbers)}{_FORMATS[self.type]}", *self.numbers)


def typed(numbers: Sequence[float], output: OutputType) -> Typed:
    """A vector of float32 numbers in another type.

    Raises:
        OverflowError: a number is too large for float16.
    """
    if output == "float16":
        form = f"<{len(numbers)}e"
        return Typed(struct.unpack(form, struct.pack(form, *numbers)), output)
    if output == "int8":
        scale = max(map(abs, numbers)) / _MOST
        return Typed([round(number / scale) for number in numbers], output, scale)
    if output in ("binary", "ubinary"):
        less = 128 if output == "binary" else 0
        return Typed([byte - less for byte in _bits(numbers)], output)
    return Typed(numbers, output)


def _bits(numbers: Sequence[float]) -> array[int]:
    packed = array("B", bytes(-(-len(numbers) // 8)))
    for place, number in enumerate(numbers):
        if number > 0:
            packed[place >> 3] |= 0x80 >> (place & 7)
    return packed
