"""A server's answer, believed only when all of it is right; and our own, put together."""

from __future__ import annotations

import base64
import binascii
import math
import sys
from array import array
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from launcher.gateway.output_types import typed
from launcher.gateway.problems import OtherLengthError, RequestError, WrongAnswerError
from launcher.gateway.request import EmbeddingCall
from launcher.units import counted

NORM_SLACK: Final = 0.02
"""A vector that should have length 1 may be off by so much: fp16 and bf16 servers round."""
_OWN_ORDER: Final = sys.byteorder == "little"


class _Item(msgspec.Struct):
    embedding: str | list[float]
    index: int = 0
    """Servers that write JSON from protocol buffers leave a 0 out; two without one are none."""


class _Answer(msgspec.Struct):
    data: list[_Item]
    usage: Any = None


_DECODER: Final = msgspec.json.Decoder(_Answer)


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer is held to."""

    count: int
    """Vectors."""
    dimensions: int | None = None
    """Numbers of each; None: of all the same."""
    normalized: bool = False
    """Whether each must have length 1."""


def read_answer(body: bytes, expected: Expected) -> tuple[list[bytes], int]:
    """The vectors (float32, little-endian) in the order of the inputs, and the tokens read.

    Raises:
        WrongAnswerError: too few or too many, an index twice or missing, another length, a number
            that is none, a zero vector, or no such answer at all.
    """
    try:
        answer = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WrongAnswerError(f"not an answer of /v1/embeddings: {_brief(error)}") from None
    if len(answer.data) != expected.count:
        raise WrongAnswerError(
            f"{counted(len(answer.data), 'vector')} for {counted(expected.count, 'input')}"
        )
    vectors: list[bytes | None] = [None] * expected.count
    for item in answer.data:
        if not 0 <= item.index < expected.count or vectors[item.index] is not None:
            raise WrongAnswerError(f"index {item.index} twice or outside 0…{expected.count - 1}")
        vectors[item.index] = _vector(item.embedding)
    whole = [vector for vector in vectors if vector is not None]
    _check(whole, expected)
    return whole, _tokens(answer.usage)


def _tokens(usage: Any) -> int:
    """What a server says it read; 0 where it says nothing that can be understood."""
    told = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    if type(told) is float and told.is_integer():
        told = int(told)
    return told if type(told) is int and told > 0 else 0


def _brief(error: Exception) -> str:
    """Of the decoder's message what names a place, never content: it quotes none."""
    return str(error)[:120]


def _vector(value: str | list[float]) -> bytes:
    if isinstance(value, str):
        try:
            data = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise WrongAnswerError("a vector is not base64") from None
        if len(data) % 4:
            raise WrongAnswerError(f"a vector of {len(data)} bytes is not float32")
        return data
    try:
        numbers = array("f", value)
    except OverflowError:
        raise WrongAnswerError("a number is too large for float32") from None
    if not _OWN_ORDER:
        numbers.byteswap()
    return numbers.tobytes()


def _check(vectors: Sequence[bytes], expected: Expected) -> None:
    size = len(vectors[0]) if expected.dimensions is None else expected.dimensions * 4
    for vector in vectors:
        if len(vector) != size or not size:
            wrong = WrongAnswerError if expected.dimensions is None else OtherLengthError
            raise wrong(f"a vector has {len(vector) // 4} numbers, not {size // 4}")
        # NaN and infinities stay in it; finite float32 numbers cannot overflow a double.
        length = math.hypot(*numbers_of(vector))
        if not math.isfinite(length):
            raise WrongAnswerError("a vector holds NaN or an infinite number")
        if not length:
            raise WrongAnswerError("a vector is zero")
        if expected.normalized and abs(length - 1) > NORM_SLACK:
            raise WrongAnswerError(f"a vector has length {length:.3f}, not 1")


def _square(value: float) -> float:
    return value * value


def numbers_of(vector: bytes) -> list[float]:
    """The numbers of a vector (float32, little-endian)."""
    numbers = array("f")
    numbers.frombytes(vector)
    if not _OWN_ORDER:
        numbers.byteswap()
    return numbers.tolist()


def cosine(one: bytes, other: bytes) -> float:
    """Of two vectors; 0 where their lengths differ or one is zero."""
    a, b = numbers_of(one), numbers_of(other)
    if len(a) != len(b):
        return 0.0
    norms = math.sqrt(math.fsum(map(_square, a)) * math.fsum(map(_square, b)))
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / norms if norms else 0.0


def render(vectors: Sequence[bytes], call: EmbeddingCall, tokens: int) -> bytes:
    """The body of our answer, as OpenAI's interface has it.

    Raises:
        RequestError: 400: a number is too large for the type that was asked for.
    """
    parts = [b'{"object":"list","data":[']
    for index, vector in enumerate(vectors):
        parts.append(b'%b{"object":"embedding","index":%d,"embedding":' % (b","[:index], index))
        if call.output == "float32" and call.encoding == "base64":
            parts.extend((b'"', base64.b64encode(vector), b'"}'))
        elif call.output == "float32":
            parts.extend((msgspec.json.encode(numbers_of(vector)), b"}"))
        else:
            parts.append(_narrow(vector, call))
    usage = b'"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (tokens, tokens)
    parts.append(b'],"model":%b,%b' % (msgspec.json.encode(call.model), usage))
    return b"".join(parts)


def _narrow(vector: bytes, call: EmbeddingCall) -> bytes:
    """The rest of an item whose numbers have fewer bits."""
    try:
        made = typed(numbers_of(vector), call.output)
    except OverflowError:
        text = f"a number of a vector is too large for {call.output}"
        raise RequestError(400, "bad_output_dtype", text, param="output_dtype") from None
    scale = b"" if made.scale is None else b',"scale":%b' % msgspec.json.encode(made.scale)
    if call.encoding == "base64":
        return b'"%b"%b}' % (base64.b64encode(made.packed()), scale)
    return msgspec.json.encode(made.numbers) + scale + b"}"
