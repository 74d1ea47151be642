"""How many tokens a checkpoint's tokenizer puts around each text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from launcher.linux.files import read_bounded

_LIMIT = 256 << 20
"""Bytes of tokenizer.json; the largest in use have some 30 MB."""


class _Tokenizer(msgspec.Struct):
    """The part of tokenizer.json that is looked at: the rest is skipped, not built."""

    post_processor: dict[str, Any] | None = None


def around(folder: Path) -> int:
    """Special tokens of every text, by tokenizer.json; 0 where it cannot be told.

    Never raises: an engine that serves the checkpoint has read the file.
    """
    try:
        data = read_bounded(folder / "tokenizer.json", _LIMIT)
        return _tokens(msgspec.json.decode(data, type=_Tokenizer).post_processor)
    except (OSError, ValueError, msgspec.MsgspecError):
        return 0


def _tokens(part: object) -> int:
    if not isinstance(part, Mapping):
        return 0
    inside, pieces = part.get("processors"), part.get("single")
    if isinstance(inside, list):
        return sum(_tokens(each) for each in inside)
    if part.get("type") in ("BertProcessing", "RobertaProcessing"):
        return 2
    if part.get("type") != "TemplateProcessing" or not isinstance(pieces, list):
        return 0
    return sum(isinstance(piece, Mapping) and "SpecialToken" in piece for piece in pieces)
