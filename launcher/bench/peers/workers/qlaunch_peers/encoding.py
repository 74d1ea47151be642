"""Texts to token ids and token vectors to text vectors, without torch or transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from qlaunch_peers.settings import Settings

TOKENIZER = "tokenizer.json"


class Texts:
    """The tokenizer of an export, as the checkpoint's own pads and cuts."""

    def __init__(self, settings: Settings) -> None:
        self._tokenizer = Tokenizer.from_file(str(settings.folder / TOKENIZER))
        self._tokenizer.enable_truncation(settings.longest)
        self._tokenizer.no_padding()
        self._lower = settings.lower_case

    def batch(self, texts: list[str]) -> tuple[Any, Any]:
        """Ids and mask of a batch, padded to its longest: both int64 of shape (texts, tokens)."""
        asked = [text.lower() for text in texts] if self._lower else texts
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch(asked)]
        width = max(map(len, rows))
        ids = np.zeros((len(rows), width), dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
            mask[place, : len(row)] = 1
        return ids, mask


def pooled(states: Any, mask: Any, settings: Settings) -> Any:
    """Text vectors of token vectors.

    Args:
        states: float32, shape (texts, tokens, width); padding on the right.
        mask: shape (texts, tokens), 1 where a token is a text's own.

    Returns:
        float32 of shape (texts, width), of length 1 where the checkpoint wants it.
    """
    if settings.pooling == "cls":
        vectors = states[:, 0]
    elif settings.pooling == "last":
        vectors = states[np.arange(len(states)), mask.sum(axis=1) - 1]
    elif mask.all():
        vectors = states.mean(axis=1)
    else:
        kept = mask[:, :, None].astype(states.dtype)
        vectors = (states * kept).sum(axis=1) / kept.sum(axis=1)
    if settings.normalize:
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors


def save_tokenizer(checkpoint: Path, folder: Path) -> None:
    """Leave the checkpoint's tokenizer in an export as one file, as transformers understands it."""
    from transformers import AutoTokenizer

    fast = AutoTokenizer.from_pretrained(checkpoint)
    fast.backend_tokenizer.save(str(folder / TOKENIZER))
