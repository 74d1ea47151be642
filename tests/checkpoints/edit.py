"""Changes to a checkpoint that is there: what people's tools write differently."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tests.checkpoints.weights import Weight, write_json

GONE: Final = object()
"""Value of a key that is to be deleted."""

Make = Callable[[Path], Path]
Change = Callable[[Path], None]
Stored = tuple[str, tuple[int, ...], bytes]
"""dtype as safetensors spells it, shape, bytes."""


def edited(make: Make, *changes: Change) -> Make:
    """A maker of what `make` makes, changed."""

    def made(path: Path) -> Path:
        make(path)
        for change in changes:
            change(path)
        return path

    return made


def setting(file: str, **changes: Any) -> Change:
    """Set (or with `GONE` delete) keys of a JSON object, which may be absent before."""

    def change(folder: Path) -> None:
        path = folder / file
        found = json.loads(path.read_bytes()) if path.exists() else {}
        found = {key: value for key, value in (found | changes).items() if value is not GONE}
        write_json(path, found)

    return change


def config(**changes: Any) -> Change:
    """Change config.json."""
    return setting("config.json", **changes)


def writing(file: str, value: object) -> Change:
    """Write a JSON file."""
    return lambda folder: write_json(folder / file, value)


def without(*files: str) -> Change:
    """Delete files."""

    def change(folder: Path) -> None:
        for file in files:
            (folder / file).unlink()

    return change


def modules(*entries: tuple[str, str]) -> Change:
    """Write modules.json: (type, path) of each module."""
    listed = [
        {"idx": at, "name": str(at), "path": place, "type": kind}
        for at, (kind, place) in enumerate(entries)
    ]
    return writing("modules.json", listed)


def read_tensors(file: Path) -> dict[str, Stored]:
    """All tensors of a safetensors file."""
    raw = file.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header, data = json.loads(raw[8 : 8 + size]), raw[8 + size :]
    header.pop("__metadata__", None)
    return {
        name: (entry["dtype"], tuple(entry["shape"]), data[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }


def write_tensors(file: Path, tensors: Mapping[str, Stored]) -> None:
    """Write a safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(data)]}
        end += len(data)
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    blocks = [struct.pack("<Q", len(raw)), raw, *(data for _, _, data in tensors.values())]
    file.write_bytes(b"".join(blocks))


def tensors(change: Callable[[dict[str, Stored]], dict[str, Stored]]) -> Change:
    """Change the tensors of model.safetensors."""

    def made(folder: Path) -> None:
        file = folder / "model.safetensors"
        write_tensors(file, change(read_tensors(file)))

    return made


def renamed(rename: Callable[[str], str]) -> Change:
    """Give every tensor another name."""
    return tensors(lambda found: {rename(name): stored for name, stored in found.items()})


def prefixed(prefix: str) -> Change:
    """Put `prefix` before the name of every tensor."""
    return renamed(lambda name: prefix + name)


def added(*weights: Weight, seed: int = 11) -> Change:
    """Store more tensors, float32 and random."""
    random = np.random.default_rng(seed)
    return tensors(lambda found: found | {w.name: _random(w, random) for w in weights})


def added_token(content: str, number: int) -> Change:
    """One more special token in tokenizer.json."""

    def change(folder: Path) -> None:
        path = folder / "tokenizer.json"
        found = json.loads(path.read_bytes())
        more = {"id": number, "content": content, "special": True}
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        found["added_tokens"].append(more | flags)
        path.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")

    return change


def dropped(*endings: str) -> Change:
    """Leave out the tensors whose names end so."""
    return tensors(lambda found: {n: s for n, s in found.items() if not n.endswith(endings)})


def stored_as(dtype: str, *endings: str) -> Change:
    """Store float32 tensors (those whose names end so; without endings all) as F16, BF16 or F64."""

    def change(found: dict[str, Stored]) -> dict[str, Stored]:
        return {
            name: cast(stored, dtype) if not endings or name.endswith(endings) else stored
            for name, stored in found.items()
        }

    return tensors(change)


def cast(stored: Stored, dtype: str) -> Stored:
    """A float32 tensor in another dtype; bfloat16 by rounding to even."""
    was, shape, data = stored
    assert was == "F32"
    numbers = np.frombuffer(data, "<f4")
    if dtype == "BF16":
        bits = numbers.view("<u4")
        half = (bits + (0x7FFF + ((bits >> 16) & 1)).astype("<u4")) >> 16
        return dtype, shape, half.astype("<u2").tobytes()
    return dtype, shape, numbers.astype({"F16": "<f2", "F64": "<f8"}[dtype]).tobytes()


def _random(weight: Weight, random: np.random.Generator) -> Stored:
    assert weight.kind == "random"
    size = math.prod(weight.shape)
    numbers: NDArray[np.float64] = random.standard_normal(size) * weight.std
    return "F32", weight.shape, numbers.astype("<f4").tobytes()
