"""Words that are likely one token each, read from the files of a checkpoint's tokenizer.

WordPiece, byte-level BPE and SentencePiece mark differently where a word begins; each kind of
vocabulary is a list of pieces, and the pieces of lower-case letters that begin a word are what
texts are made of. What is taken from here is only a proposal: the engine's counts decide.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.linux.files import read_bounded

FILE_LIMIT = 256 << 20
"""Bytes of a tokenizer file; the largest in use have some 30 MB."""
MOST = 960
"""Words taken of a large vocabulary."""
MANY_HEADS = 200
"""From so many words that are whole also where no blank stands before them, only those are used."""

_COMMON = """
the and for that with this from have not are was one all but they what when there can which time
will about would make like him into year your good some could them see other than then now look
only come its over think also back after use two how our work first well way even new want
because any these give day most us
"""
COMMON = tuple(_COMMON.split())
"""For a tokenizer whose vocabulary cannot be read; measured one by one."""

_WORD = re.compile(r"[a-z]{2,12}")
_MARKS = ("Ġ", "▁")
"""What stands for the blank before a word: in byte-level BPE and in SentencePiece."""
_FALLBACK_HEAD = "a"


@dataclass(frozen=True)
class Candidates:
    """What texts may be made of."""

    heads: list[str]
    """Words to begin a text with, where no blank stands before them."""
    words: list[str]


def read_candidates(model_path: str | Path | None) -> Candidates:
    """Candidates from a checkpoint's folder; none but the fallback's head where nothing is read."""
    pieces = [] if model_path is None else read_pieces(Path(model_path))
    return choose(pieces)


def choose(pieces: Iterable[str]) -> Candidates:
    """Whole words among the pieces of a vocabulary, the same ones every time."""
    known = set(pieces)
    marked = {piece[1:] for piece in known if piece[:1] in _MARKS}
    plain = {piece for piece in known if _WORD.fullmatch(piece)}
    # Without marks a vocabulary is WordPiece: a piece inside a word begins with ##.
    words = {word for word in marked if _WORD.fullmatch(word)} if marked else plain
    both = words & plain
    if marked and len(both) < MANY_HEADS:
        return Candidates([_FALLBACK_HEAD], _some(words))
    chosen = _some(both)
    return Candidates(chosen or [_FALLBACK_HEAD], chosen)


def _some(words: set[str]) -> list[str]:
    """At most MOST words, those of 4 to 9 letters first: they are words and not parts of words."""
    usual = sorted(word for word in words if 4 <= len(word) <= 9)
    rest = sorted(word for word in words if not 4 <= len(word) <= 9)
    random.Random(0).shuffle(usual)  # noqa: S311 - the order of words, no secret
    return [*usual, *rest][:MOST]


def read_pieces(folder: Path) -> list[str]:
    """Pieces of a checkpoint's vocabulary, from whichever file holds one; none where none does."""
    for name, read in (
        ("tokenizer.json", _of_tokenizer),
        ("vocab.json", _names),
        ("vocab.txt", None),
    ):
        try:
            data = read_bounded((folder / name).resolve(), FILE_LIMIT)
            if read is None:
                return data.decode("utf-8").splitlines()
            found = read(json.loads(data))
        except (OSError, ValueError, RecursionError, TypeError, AttributeError):
            continue  # there is none, or it is damaged: the next may serve
        if found:
            return found
    return []


def _of_tokenizer(document: Any) -> list[str]:
    vocabulary = document["model"]["vocab"] if "model" in document else {}
    if isinstance(vocabulary, list):  # Unigram: pieces with their scores
        return [entry[0] for entry in vocabulary if entry and isinstance(entry[0], str)]
    return _names(vocabulary)


def _names(vocabulary: Any) -> list[str]:
    return [name for name in vocabulary if isinstance(name, str)]
