"""Text that may be kept and shown: without secrets, and without orders to the terminal.

Both functions take time proportional to the text, whatever it holds.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

REDACTED = "[redacted]"

LINE_LIMIT = 4000
"""Characters of one line that are kept; engines print whole tensors and prompts at times."""

_SEQUENCE = re.compile(
    # Linear: possessive quantifiers (`*+`) try no shorter match of an unfinished sequence, and no
    # sequence runs over the beginning of another, so no character is looked at twice.
    r"(?:\x1b\[|\x9b)[0-?]*+[ -/]*+[@-~]"  # CSI: colours, cursor
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d\x9e\x9f])[^\x07\x1b\x80-\x9f\n]*+(?:\x07|\x1b\\|\x9c)"  # OSC
    r"|\x1b[ -/]++[0-~]"  # character sets
    r"|\x1b[0-Z\\^-~]"  # two-character sequences
)

_CONTROL: dict[int, str | None] = dict.fromkeys(
    [
        *(set(range(0x20)) - {0x09, 0x0A, 0x0D}),
        *range(0x7F, 0xA0),
        # Directional marks and embeddings, which can make a line read other than it is.
        *(0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)),
    ]
)
_REPLACED: dict[int, str | None] = {
    **_CONTROL,
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),
    **dict.fromkeys((0x0D, 0x2028, 0x2029), " "),
}


class Scrubber:
    """Replaces secrets by `[redacted]`, in every form they are usually written.

    The forms: plain, JSON-escaped, repr-escaped, URL-quoted, HTML-escaped, and JSON-escaped once
    more (JSON in a JSON string). Overlapping occurrences are replaced as one, so that no character
    of any of them is left. Give it whole lines: a secret cut in two is not recognised.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets if secret for form in _forms(secret)}
        self._forms = sorted(forms, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """`text` without the secrets."""
        spans = sorted(span for form in self._forms for span in _spans(text, form))
        if not spans:
            return text
        parts: list[str] = []
        kept = 0
        start, end = spans[0]
        for following, its_end in spans[1:]:
            if following > end:
                parts += [text[kept:start], REDACTED]
                kept, start = end, following
            end = max(end, its_end)
        parts += [text[kept:start], REDACTED, text[end:]]
        return "".join(parts)

    def values(self, value: object) -> object:
        """`value` (dicts, lists, strings, numbers) with every string in it scrubbed, keys too."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, dict):
            return {self.values(key): self.values(part) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.values(part) for part in value]
        return value

    def printable(self, text: str | bytes, *, limit: int = LINE_LIMIT) -> str:
        """`terminal_safe` and scrubbed, for lines of a log.

        Scrubbed after the escape sequences are out, which could hide a secret, and before the cut,
        which could leave half of one.
        """
        return _cut_lines(self(_strip(text)), limit)


def terminal_safe(text: str | bytes, *, limit: int = LINE_LIMIT) -> str:
    """`text` as it can be printed: no escape sequences, no control characters but tab and newline.

    Bytes that are no UTF-8 and lone surrogates become U+FFFD, carriage returns within a line (which
    would hide what stands before them) a blank. Lines are cut to `limit` characters, with the
    number left out at the end of the cut line.
    """
    return _cut_lines(_strip(text), limit)


def _strip(text: str | bytes) -> str:
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    if "\x1b" in text or not text.isascii():
        text = _SEQUENCE.sub("", text)
    return text.replace("\r\n", "\n").translate(_REPLACED)


def _cut_lines(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return "\n".join(_cut(line, limit) for line in text.split("\n"))


def _cut(line: str, limit: int) -> str:
    if len(line) <= limit:
        return line
    mark = f" … [{len(line)} characters]"
    return line[: max(0, limit - len(mark))] + mark[:limit]


def _forms(secret: str) -> set[str]:
    """Every way in which a secret may stand in a log or a document."""
    quoted = {urllib.parse.quote(secret, safe=safe, errors="replace") for safe in ("", "/")}
    quoted.add(urllib.parse.quote_plus(secret, errors="replace"))
    forms = {
        secret,
        _html(secret, '"', "'"),
        _html(secret),
        repr(secret)[1:-1],
        repr(secret.encode("utf-8", "replace"))[2:-1],
        ascii(secret)[1:-1],
        *quoted,
        *(re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), form) for form in quoted),
    }
    for ensure_ascii in (True, False):
        forms |= {json.dumps(form, ensure_ascii=ensure_ascii)[1:-1] for form in tuple(forms)}
    forms |= {form.replace("/", "\\/") for form in tuple(forms)}
    return forms


def _html(text: str, *quotes: str) -> str:
    """HTML-escaped, `quotes` too (the module `html` costs 1 MB for its table of entities)."""
    names = {"<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"}
    text = text.replace("&", "&amp;")
    for character in ("<", ">", *quotes):
        text = text.replace(character, names[character])
    return text


def _spans(text: str, form: str) -> list[tuple[int, int]]:
    """Where `form` stands, overlapping occurrences included."""
    found: list[tuple[int, int]] = []
    at = text.find(form)
    while at >= 0:
        found.append((at, at + len(form)))
        at = text.find(form, at + 1)
    return found
