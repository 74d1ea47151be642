"""What a checkpoint's tokenizer puts around each text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from launcher.errors import QlaunchError
from launcher.model.files import read_bytes


class _Tokenizer(msgspec.Struct):
    """The part of tokenizer.json that is looked at: the rest is skipped, not built."""

    post_processor: Any = None


def count_of(folder: Path) -> int:
    """Special tokens of every text, by tokenizer.json; 0 where it cannot be told.

    Never raises: an engine that serves the checkpoint has read the file.
    """
    return len(marks_of(folder)) - 1


def marks_of(folder: Path) -> list[str | None]:
    """Tokens that tokenizer.json puts around a text, which is None; as `count_of`."""
    try:
        data = read_bytes(folder / "tokenizer.json")
        return around(msgspec.json.decode(data, type=_Tokenizer).post_processor)
    except (QlaunchError, ValueError, msgspec.MsgspecError):
        return [None]


def around(part: object) -> list[str | None]:
    """Tokens that a post-processor puts around a text, which is None."""
    said = part if isinstance(part, Mapping) else {}
    inside, single = said.get("processors"), said.get("single")
    if isinstance(inside, list):
        return next((found for each in inside if len(found := around(each)) > 1), [None])
    if said.get("type") in ("BertProcessing", "RobertaProcessing"):
        return [_first(said.get("cls")), None, _first(said.get("sep"))]
    pieces = [each for each in single if isinstance(each, Mapping)] if single else []
    return [_mark(each.get("SpecialToken")) for each in pieces] or [None]


def _first(pair: object) -> str:
    return str(pair[0]) if isinstance(pair, list) and pair else ""


def _mark(said: object) -> str | None:
    return str(said.get("id")) if isinstance(said, Mapping) else None
