"""A cheap name for the exact content of a checkpoint: copies agree, changed vectors do not."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from launcher.model.files import open_regular, read_bytes, visible

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from launcher.model.safetensors import Header

WHOLE = 8 * 1024 * 1024
"""Tensor data up to this many bytes is hashed whole."""
BLOCK = 4096
BLOCKS = 64
"""Evenly spaced blocks of larger files, the first and the last among them; besides, the middle of
every tensor, so that training one layer further shows."""
SMALL_FILES = ("*.json", "*.txt", "*.model", "*.tiktoken", "*.py")
"""Patterns of what counts whole."""
_NO_EFFECT = frozenset({"generation_config.json", "data_config.json", "README.txt", "LICENSE.txt"})


def fingerprint(folder: Path, headers: Iterable[Header], modules: Iterable[str]) -> str:
    """SHA-256 (64 hex digits) over names and content of the files that make the vectors.

    Small files (config, tokenizer, modules) count whole; of tensor files the size, the header and
    samples of the data: tens of milliseconds for 1.2 GB. Times, owners and paths do not count.

    Args:
        folder: the checkpoint.
        headers: of its weight files.
        modules: folders of sentence-transformers modules inside it.

    Raises:
        QlaunchError: `model_corrupt` or `model_incomplete` if a file cannot be read.
    """
    total = hashlib.sha256()
    weights = {header.path: header for header in headers}
    for path in sorted(_files(folder, modules)):
        if path not in weights:
            _add(total, folder, path, read_bytes(path, 1 << 31))
    for path, header in sorted(weights.items()):
        _add(total, folder, path, _sample(header))
    return total.hexdigest()


def _add(total: hashlib._Hash, folder: Path, path: Path, content: bytes) -> None:
    # Hash of the content, not the content: names and contents can then never run into each other.
    name = path.relative_to(folder).as_posix()
    # Names are bytes, which need not be UTF-8.
    line = f"{name}\0{hashlib.sha256(content).hexdigest()}\n"
    total.update(line.encode(errors="surrogateescape"))


def _files(folder: Path, modules: Iterable[str]) -> set[Path]:
    """Files that shape the vectors: patterns at the top, everything in the modules' folders."""
    found = {path for pattern in SMALL_FILES for path in visible(folder, pattern)}
    for module in modules:
        found.update(visible(folder / module, "*"))
    return {path for path in found if path.name not in _NO_EFFECT and path.is_file()}


def _sample(header: Header) -> bytes:
    """Size, header and parts of the data of one tensor file."""
    data = header.size - header.data_start
    with os.fdopen(open_regular(header.path), "rb") as file:
        parts = [header.size.to_bytes(8, "little"), header.raw]
        for begin, length in _spans(header, data):
            file.seek(header.data_start + begin)
            parts.append(file.read(length))
    return b"".join(parts)


def _spans(header: Header, data: int) -> list[tuple[int, int]]:
    """(offset into the data, bytes) of what is read, in order."""
    if data <= WHOLE:
        return [(0, data)]
    last = data - BLOCK
    spaced = {last * n // (BLOCKS - 1) for n in range(BLOCKS)}
    middles = {min((t.begin + t.end) // 2, last) for t in header.tensors}
    return [(begin, BLOCK) for begin in sorted(spaced | middles)]
