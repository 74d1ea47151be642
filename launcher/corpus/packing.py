"""Answers as bytes, for a way through other processes."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import msgspec

from launcher.corpus.asking import Answer
from launcher.corpus.records import Problem, Reason, Vector


class _Refusal(msgspec.Struct, array_like=True, frozen=True):
    reason: Reason
    message: str


_decoder = msgspec.msgpack.Decoder(list[bytes | _Refusal])


def packed(answers: Sequence[Answer]) -> bytes:
    """Vectors or problems, in their order; the numbers stay bit for bit."""
    return msgspec.msgpack.encode(
        [
            _Refusal(each.reason, each.message) if isinstance(each, Problem) else each.tobytes()
            for each in answers
        ]
    )


def unpacked(data: bytes) -> list[Answer]:
    """What `packed` was given."""
    return [
        Problem(each.reason, each.message) if isinstance(each, _Refusal) else vector(each)
        for each in _decoder.decode(data)
    ]


def vector(data: bytes) -> Vector:
    """The vector of float32 that these bytes are."""
    numbers = array("f")
    numbers.frombytes(data)
    return numbers
