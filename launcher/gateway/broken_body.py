"""What is wrong with a body that is no JSON: a sentence that quotes nothing of it. Pure."""

from __future__ import annotations

import codecs
import re
from typing import Final

import msgspec

_MARKS: Final = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""Also one without an end: whatever the body is, each byte is looked at once."""
_NUMBERS: Final = re.compile(rb"\bNaN\b|\bInfinity\b")
_HIGH: Final = rb"\\u[dD][89abAB][0-9a-fA-F]{2}"
_LOW: Final = rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_HALF: Final = re.compile(rb"%b(?!%b)|(?<!%b)%b" % (_HIGH, _LOW, _HIGH, _LOW))


def why_broken(body: bytes, error: Exception) -> str:
    """The sentence.

    Args:
        body: what was sent.
        error: the decoder's.
    """
    if isinstance(error, RecursionError):
        return "the body is nested too deeply"
    if not body.strip():
        return "the body is empty"
    if body.startswith(_MARKS):
        return "the body begins with a byte order mark: JSON is sent in UTF-8 without one"
    try:
        body.decode()
    except UnicodeDecodeError as wrong:
        return f"the body is not UTF-8: byte {wrong.start} begins no character"
    if _HALF.search(body.replace(rb"\\", b"")):
        return "a text of the body holds half of a surrogate pair (\\ud800 to \\udfff)"
    found = _NUMBERS.search(_STRING.sub(b'""', body))
    if found is not None:
        return f"the body holds {found[0].decode()}, which JSON has no number for"
    if isinstance(error, msgspec.ValidationError):
        far = "out of range" in str(error)
        return "a number of the body is too large" if far else "the body must be a JSON object"
    detail = str(error).removeprefix("JSON is malformed: ")
    if "truncated" in detail:
        detail = "it ends too early"
    return f"the body is not valid JSON: {detail}"
