"""One body of /v1/embeddings: read, held to the limits, and written anew for the engine. Pure.

What the engine gets is written here from what was checked, not the client's own bytes: two parsers
never read one document differently, and a field that nobody looked at is not passed on.
"""

import re

import msgspec

from qlaunch_guard.refusal import Refused, no_model, shown, too_long

FIELDS = ("model", "input", "encoding_format", "dimensions", "user")
"""OpenAI's own. `user` names somebody for a provider's records: it is checked, and ends here."""
DROP = "drop_params"
"""LiteLLM's word for leaving out what a model does not know; RAGFlow says it to every server."""
BYTES_A_TOKEN = 4
"""Of a text, where only its memory is asked for."""
SCANNED_FROM = 16 * 1024
"""Bytes; below that nothing a body holds can take much memory."""
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""Also one without an end: whatever a body is, each byte is looked at once."""
_PARSE = msgspec.json.Decoder().decode
_SKIM = msgspec.json.Decoder(msgspec.Raw).decode
"""Looks a document through without building any of it."""
_WRITE = msgspec.json.Encoder().encode


def check(raw, settings):
    """The body for the engine, the number of inputs in it, and of their tokens, about.

    Raises:
        Refused: 400, or 404 for a model that is not served.
    """
    found = parse(raw, settings)
    _no_other_fields(found)
    _model(found.get("model"), settings)
    out = {"model": settings.model}
    form = found.get("encoding_format")
    if form is not None:
        if form not in ("float", "base64"):
            message = f"encoding_format must be 'float' or 'base64', not {shown(form)}"
            raise Refused(400, message, param="encoding_format")
        out["encoding_format"] = form
    if not isinstance(found.get("user"), str | None):
        raise Refused(400, "user must be a string", param="user")
    width = _dimensions(found.get("dimensions"), settings)
    if width is not None:
        out["dimensions"] = width
    if "input" not in found:
        raise Refused(400, "input is missing", param="input")
    given = out["input"] = _whole(found["input"])
    count, tokens = _input(given, settings)
    written = _WRITE(out)
    return written, count, tokens or len(written) // BYTES_A_TOKEN


def parse(raw, settings):
    """The JSON object in `raw`; what would take much memory to read is refused unread."""
    too_much = _scan(raw, settings) if len(raw) > SCANNED_FROM else None
    try:
        # What is no JSON has the gateway's code for that, however much of it there is.
        found = (_SKIM if too_much else _PARSE)(raw)
    except RecursionError:
        raise _no_json("the body is nested too deeply") from None
    except ValueError:
        raise _no_json("the body is not valid JSON in UTF-8") from None
    if too_much:
        raise too_much
    if not isinstance(found, dict):
        raise _no_json("the body must be a JSON object")
    return found


def _no_json(message):
    return Refused(400, message, code="bad_json")


def _scan(raw, settings):
    """The refusal of what holds more values than any call that is answered: counted, not built.

    Inside strings brackets and commas mean nothing, so they are taken out where there are many.
    """
    groups, values = 2 * settings.inputs + 64, 2 * (settings.call_tokens + settings.inputs) + 64
    for text in (raw, None):
        left = text if text is not None else _STRING.sub(b"", raw)
        many = left.count(b"[") + left.count(b"{") > groups
        if not many and left.count(b",") <= values:
            return None
    message = (
        f"the body holds too many values: a call takes {settings.inputs} inputs and"
        f" {settings.call_tokens} token ids at most"
    )
    return _refused(message, "too_many_inputs" if many else "too_many_tokens")


def _no_other_fields(found):
    for name, value in found.items():
        # Clients write out fields they do not use.
        if name not in FIELDS and value is not None and not (name == DROP and type(value) is bool):
            message = f"{shown(name)} is not a field of this endpoint; it takes {', '.join(FIELDS)}"
            raise Refused(400, message, param=name[:80], code="unknown_field")


def _model(name, settings):
    if name is None or name in settings.names:
        return
    if not isinstance(name, str):
        raise Refused(400, "model must be a string", param="model")
    raise no_model(name, settings)


def _dimensions(width, settings):
    """The width to cut vectors to; None for whole ones."""
    if width is None:
        return None
    whole = settings.dimensions
    width = _number(width)
    if type(width) is not int or not 1 <= width <= whole:
        message = f"dimensions must be a whole number from 1 to {whole}"
        raise Refused(400, message, param="dimensions")
    if width == whole:
        return None
    if not settings.cut:
        message = f"this model's vectors cannot be cut: they have {whole} dimensions"
        raise Refused(400, message, param="dimensions")
    return width


def _number(value):
    """A number that JSON writes with a point and is whole all the same, as an int."""
    return int(value) if type(value) is float and value.is_integer() else value


def _whole(given):
    """The input with such numbers as ints."""
    if type(given) is list and list in set(map(type, given)):
        return list(map(_numbers, given))
    return _numbers(given)


def _numbers(ids):
    """A list with such numbers as ints; without them, or no list, as it is."""
    if type(ids) is list and float in set(map(type, ids)):
        return list(map(_number, ids))
    return ids


def _refused(message, code=None):
    return Refused(400, message, param="input", code=code)


def _input(given, settings):
    """Check the input of a call: the number of inputs, and of token ids (0 for texts)."""
    if type(given) is str:
        _text(given, "input", settings)
        return 1, 0
    if type(given) is not list:
        raise _refused("input must be a text, a list of texts, or token ids")
    if not given:
        raise _refused("input cannot be empty")
    kinds = set(map(type, given))
    if kinds == {int}:
        _check_total(len(given), settings)
        _ids(given, "input", settings)
        return 1, len(given)
    if len(given) > settings.inputs:
        message = f"a call takes {settings.inputs} inputs at most, not {len(given)}"
        raise _refused(message, "too_many_inputs")
    tokens = 0
    if kinds == {str}:
        for at, text in enumerate(given):
            _text(text, f"input[{at}]", settings)
        _check_texts(given, settings)
    elif kinds == {list}:
        tokens = sum(map(len, given))
        _check_total(tokens, settings)
        for at, ids in enumerate(given):
            if set(map(type, ids)) - {int}:
                raise _refused(f"input[{at}] must hold token ids only: whole numbers")
            _ids(ids, f"input[{at}]", settings)
    else:
        raise _refused(_mixed(given))
    return len(given), tokens


def _mixed(given):
    """A sentence on the first item that is none, or is of another kind than the first."""
    for at, item in enumerate(given):
        if type(item) not in (str, int, list):
            return f"input[{at}] is neither a text nor token ids"
    return "input must be texts only, token ids only, or lists of token ids only"


def _text(text, where, settings):
    if not text or text.isspace():
        raise _refused(f"{where} cannot be empty or white space only")
    most = settings.text_bytes
    # A character takes four bytes at most, so most texts need no second look.
    if len(text) * 4 > most and len(text.encode()) > most:
        message = f"{where} is longer than {most} bytes, the most this service takes of one text"
        raise _refused(message, "context_length_exceeded")


def _ids(ids, where, settings):
    if not ids:
        raise _refused(f"{where} holds no token id")
    if settings.text_tokens is not None and len(ids) > settings.text_tokens:
        raise too_long(where, len(ids), settings.text_tokens)
    if min(ids) < 0 or max(ids) >= settings.vocabulary:
        last = settings.vocabulary - 1
        message = (
            f"{where} holds a token id outside this model's vocabulary, which is 0 to {last}:"
            " send texts, or ids of its own tokenizer"
        )
        raise _refused(message, "foreign_token_ids")


def _check_total(tokens, settings):
    if tokens > settings.call_tokens:
        message = f"a call takes {settings.call_tokens} token ids at most, not {tokens}"
        raise _refused(message, "too_many_tokens")


def _check_texts(texts, settings):
    most = settings.call_bytes
    if sum(map(len, texts)) * 4 > most and sum(len(text.encode()) for text in texts) > most:
        raise _refused(f"a call takes {most} bytes of text at most", "too_many_tokens")
