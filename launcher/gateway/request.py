"""A body of `POST /v1/embeddings`, read and checked."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from launcher.gateway.broken_body import why_broken
from launcher.gateway.identity import MOST_IDS, Input
from launcher.gateway.problems import RequestError

Encoding = Literal["float", "base64"]
OutputType = Literal["float32", "float16", "int8", "binary", "ubinary"]
Truncation = Literal["end", "none"]
Priority = Literal["interactive", "bulk"]
KNOWN: Final = (
    "model",
    "input",
    "encoding_format",
    "dimensions",
    "user",
    "truncate",
    "prompt_name",
    "output_dtype",
    "priority",
)
DROP: Final = "drop_params"
"""LiteLLM's word for leaving out what a model does not know (true or false), which RAGFlow says to
every server. It goes to servers that we do not know; others do nothing for it."""
TRUNCATIONS: Final[dict[str | bool, Truncation]] = {
    "end": "end",
    "END": "end",
    True: "end",
    "none": "none",
    "NONE": "none",
    False: "none",
}
"""As Cohere, NIM and TEI write it."""
OUTPUT_TYPES: Final[dict[str, OutputType]] = {
    "float": "float32",
    "float32": "float32",
    "float16": "float16",
    "int8": "int8",
    "binary": "binary",
    "ubinary": "ubinary",
}
_BODY: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_INPUT: Final = msgspec.json.Decoder(str | list[str | int | list[int]])
_ENCODING: Final = msgspec.json.Decoder(Encoding | None)
_DIMENSIONS: Final = msgspec.json.Decoder(int | None)
# A number such as 5.0 is an integer in JSON; few write so, and these are asked only then.
_NUMBER: Final = msgspec.json.Decoder(float)
_IDS: Final = msgspec.json.Decoder(list[float | list[float]])
_WORD: Final = msgspec.json.Decoder(str | None)
_WORD_OR_SWITCH: Final = msgspec.json.Decoder(str | bool | None)
_PRIORITY: Final = msgspec.json.Decoder(Priority | None)
_NO_INPUT: Final = (
    "`input` must be a string, a list of strings, token ids or a list of lists of token ids"
)
_NO_NUMBER: Final = "`dimensions` must be a number"
MOST_DIMENSIONS: Final = 1 << 20
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class EmbeddingCall(msgspec.Struct, frozen=True, kw_only=True):
    """One request for vectors."""

    model: str | None
    """None: the only one."""
    inputs: tuple[Input, ...]
    encoding: Encoding = "float"
    dimensions: int | None = None
    output: OutputType = "float32"
    """What the numbers of the answer are; the server is asked for float32 all the same."""
    truncate: Truncation | None = None
    """None: as the gateway is set."""
    prompt_name: str | None = None
    """Of the checkpoint's prompt that goes before each text."""
    priority: Priority | None = None
    user: str | None = None
    """Goes to the server; changes no vector."""
    extra: tuple[tuple[str, msgspec.Raw], ...] = ()
    """Fields that we do not know, by name: they go to the server, and may change vectors."""

    def options(self) -> bytes:
        """`extra` in one canonical form, for the key."""
        if not self.extra:
            return b""
        plain = {name: msgspec.json.decode(raw) for name, raw in self.extra}
        return msgspec.json.encode(plain, order="deterministic")


def read_call(body: bytes, *, most_inputs: int) -> EmbeddingCall:
    """The request in a body.

    Raises:
        RequestError: 400: it is no such request, in one sentence that quotes nothing of it.
    """
    try:
        return _call(_BODY.decode(body), most_inputs)
    except _UNREADABLE as error:
        raise RequestError(400, "bad_json", why_broken(body, error)) from None


def _call(fields: dict[str, msgspec.Raw], most_inputs: int) -> EmbeddingCall:
    """The same.

    Raises:
        RequestError: as above.
        DecodeError, UnicodeDecodeError, RecursionError: it is no JSON after all.
    """
    call = EmbeddingCall(
        model=_field(fields, "model", _WORD, "`model` must be a string"),
        inputs=_inputs(fields, most_inputs),
        encoding=_field(
            fields, "encoding_format", _ENCODING, '`encoding_format` must be "float" or "base64"'
        )
        or "float",
        dimensions=_dimensions(fields),
        output=_output(fields),
        truncate=_truncate(fields),
        prompt_name=_field(fields, "prompt_name", _WORD, "`prompt_name` must be a string"),
        priority=_field(
            fields, "priority", _PRIORITY, '`priority` must be "interactive" or "bulk"'
        ),
        user=_field(fields, "user", _WORD, "`user` must be a string"),
        extra=tuple(sorted((n, raw) for n, raw in fields.items() if n not in KNOWN)),
    )
    call.options()
    return call


def _field(
    fields: dict[str, msgspec.Raw], name: str, decoder: msgspec.json.Decoder[Any], wrong: str
) -> Any:
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        if "out of range" in str(error):
            raise
        raise _bad(name, wrong) from None


def _dimensions(fields: dict[str, msgspec.Raw]) -> int | None:
    raw = fields.get("dimensions")
    try:
        asked: int | None = None if raw is None else _DIMENSIONS.decode(raw)
    except ValueError:
        asked = _whole(_field(fields, "dimensions", _NUMBER, _NO_NUMBER), "dimensions", _NO_NUMBER)
    if asked is not None and not 1 <= asked <= MOST_DIMENSIONS:
        raise _bad("dimensions", f"`dimensions` must be 1 to {MOST_DIMENSIONS}")
    return asked


def _whole(number: float, name: str, wrong: str) -> int:
    if not number.is_integer():
        raise _bad(name, wrong)
    return int(number)


def _output(fields: dict[str, msgspec.Raw]) -> OutputType:
    wrong = f"`output_dtype` must be one of {', '.join(OUTPUT_TYPES)}"
    asked = _field(fields, "output_dtype", _WORD, wrong)
    if asked is None:
        return "float32"
    if asked not in OUTPUT_TYPES:
        raise _bad("output_dtype", wrong)
    return OUTPUT_TYPES[asked]


def _truncate(fields: dict[str, msgspec.Raw]) -> Truncation | None:
    wrong = '`truncate` must be "end" or "none"'
    asked = _field(fields, "truncate", _WORD_OR_SWITCH, wrong)
    if asked is None:
        return None
    if asked not in TRUNCATIONS:
        raise _bad("truncate", wrong)
    return TRUNCATIONS[asked]


def _inputs(fields: dict[str, msgspec.Raw], most: int) -> tuple[Input, ...]:
    if "input" not in fields:
        raise _bad("input", "`input` is missing")
    try:
        value = _INPUT.decode(fields["input"])
    except msgspec.ValidationError:
        value = [
            [_whole(one, "input", _NO_INPUT) for one in item]
            if isinstance(item, list)
            else _whole(item, "input", _NO_INPUT)
            for item in _field(fields, "input", _IDS, _NO_INPUT)
        ]
    if isinstance(value, str):
        return (value,)
    if not value:
        raise _bad("input", "`input` is an empty list")
    kinds = {type(one) for one in value}
    if len(kinds) != 1:
        raise _bad("input", "`input` mixes texts and token ids")
    if kinds == {int}:
        return (_ids(value),)
    if len(value) > most:
        raise _bad("input", f"{len(value)} inputs; one call may have {most}", "too_many_inputs")
    return tuple(value) if kinds == {str} else tuple(_ids(one) for one in value)


def _ids(values: list[int]) -> tuple[int, ...]:
    if not values:
        raise _bad("input", "a list of token ids is empty")
    if min(values) < 0 or max(values) > MOST_IDS:
        raise _bad("input", f"token ids are 0 to {MOST_IDS}", "foreign_token_ids")
    return tuple(values)


def _bad(name: str, message: str, code: str | None = None) -> RequestError:
    return RequestError(400, code or f"bad_{name}", message, param=name)
