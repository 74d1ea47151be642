"""Changes that downloads, editors of Windows and converters make to a checkpoint's files."""

from __future__ import annotations

import codecs
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.checkpoints.edit import Change, Stored, read_tensors, tensors, write_tensors

Tensors = dict[str, Stored]
LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
"""How a file of PyTorch before 1.6 begins."""
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 711661\n"
)
"""What a clone without git-lfs leaves in a file's place."""
PAGE = b"\n<!DOCTYPE HTML>\n<html><body>Sign in</body></html>\n"
"""What a login, or a hub's page about a file, leaves in its place."""
APPLE_DOUBLE = bytes.fromhex("000516070002000000000000000000000000000000000000")
"""How a file begins in which a Mac keeps what another file system has no place for."""


def linked(file: str, to: str) -> Change:
    """Put a link in the place of a file."""

    def change(folder: Path) -> None:
        (folder / file).unlink(missing_ok=True)
        (folder / file).symlink_to(to)

    return change


def marked(file: str) -> Change:
    """A byte order mark before a file."""
    return rewritten(file, lambda data: codecs.BOM_UTF8 + data)


def rewritten(file: str, change: Callable[[bytes], bytes]) -> Change:
    """Change a file's bytes; one that is not there is empty before."""

    def made(folder: Path) -> None:
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(change(path.read_bytes() if path.exists() else b""))

    return made


def tokenizer_part(**parts: Any) -> Change:
    """Set parts of tokenizer.json."""
    return rewritten("tokenizer.json", lambda data: json.dumps(json.loads(data) | parts).encode())


def vocabulary(word: str, number: Any) -> Change:
    """One more word in the vocabulary of tokenizer.json."""

    def change(data: bytes) -> bytes:
        found = json.loads(data)
        found["model"]["vocab"][word] = number
        return json.dumps(found).encode()

    return rewritten("tokenizer.json", change)


def notes(value: Any) -> Change:
    """`__metadata__` of model.safetensors."""

    def change(data: bytes) -> bytes:
        (size,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + size]) | {"__metadata__": value}
        raw = json.dumps(header).encode()
        return struct.pack("<Q", len(raw)) + raw + data[8 + size :]

    return rewritten("model.safetensors", change)


def more(name: str, like: str) -> Change:
    """One more tensor, a copy of another."""
    return tensors(lambda found: found | {name: found[like]})


def scaled(factor: float, *endings: str) -> Change:
    """Multiply the float32 tensors whose names end so."""

    def change(found: Tensors) -> Tensors:
        return {
            name: (dtype, shape, _times(data, factor) if name.endswith(endings) else data)
            for name, (dtype, shape, data) in found.items()
        }

    return tensors(change)


def _times(data: bytes, factor: float) -> bytes:
    return (np.frombuffer(data, "<f4") * np.float32(factor)).astype("<f4").tobytes()


def number(tensor: str, value: float, file: str = "model.safetensors") -> Change:
    """Set one number of a float32 tensor."""

    def change(folder: Path) -> None:
        found = read_tensors(folder / file)
        dtype, shape, data = found[tensor]
        numbers = np.frombuffer(data, "<f4").copy()
        numbers[3] = value
        write_tensors(folder / file, found | {tensor: (dtype, shape, numbers.tobytes())})

    return change


def renamed_weights(to: str) -> Change:
    """Another name for model.safetensors."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / to)

    return change


def index(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Change the index of shards."""

    def made(data: bytes) -> bytes:
        found = json.loads(data)
        change(found)
        return json.dumps(found).encode()

    return rewritten("model.safetensors.index.json", made)


def twice_in_shards(folder: Path) -> None:
    """A tensor in two shards, with other numbers."""
    first, *_, last = sorted(folder.glob("model-*.safetensors"))
    dtype, shape, data = read_tensors(first).popitem()[1]
    name = list(read_tensors(first))[-1]
    write_tensors(last, read_tensors(last) | {name: (dtype, shape, bytes(len(data)))})


def joined_beside_shards(folder: Path) -> None:
    """model.safetensors beside the shards that it was made of."""
    found: Tensors = {}
    for shard in folder.glob("model-*.safetensors"):
        found |= read_tensors(shard)
    write_tensors(folder / "model.safetensors", found)


def dense_bin(data: bytes) -> Change:
    """Weights of a Dense module as a file of PyTorch."""

    def change(folder: Path) -> None:
        (folder / "2_Dense" / "model.safetensors").unlink()
        (folder / "2_Dense" / "pytorch_model.bin").write_bytes(data)

    return change


def name_of_bytes(folder: Path) -> None:
    """A file whose name is Latin-1."""
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.json")).write_text("{}")
