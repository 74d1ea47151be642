"""Random weights and the safetensors files they are written to."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Dtype = Literal["float32", "bfloat16", "float16"]
Kind = Literal["random", "zeros", "ones"]
NAMES: dict[Dtype, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
WIDTHS: dict[Dtype, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
_BLOCK = 4_194_301
"""Elements of the random block that large tensors are cut from: a prime, so that no two rows of a
matrix fall on the same piece of it."""


@dataclass(frozen=True)
class Weight:
    """A tensor to be written: its bytes are made only then."""

    name: str
    shape: tuple[int, ...]
    kind: Kind = "random"
    std: float = 0.05

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


class Source:
    """An endless supply of reproducible normal weights of one dtype; fast for gigabytes.

    Small tensors get numbers of their own; of large ones each is a window, starting at its own
    place, of one block repeated: 1.2 GB take seconds, and no tensor equals another.
    """

    def __init__(self, seed: int, dtype: Dtype) -> None:
        self.dtype = dtype
        self._random = np.random.default_rng(seed)
        self._blocks: dict[float, bytes] = {}

    def chunks(self, weight: Weight) -> Iterator[bytes]:
        """The bytes of `weight`, little-endian, in pieces."""
        if weight.kind != "random":
            value = 1.0 if weight.kind == "ones" else 0.0
            yield encode(np.full(weight.elements, value, dtype=np.float32), self.dtype)
        elif weight.elements <= _BLOCK // 4:
            numbers = self._random.standard_normal(weight.elements, dtype=np.float32)
            yield encode(numbers * np.float32(weight.std), self.dtype)
        else:
            yield from self._windows(weight)

    def _windows(self, weight: Weight) -> Iterator[bytes]:
        if weight.std not in self._blocks:
            numbers = self._random.standard_normal(_BLOCK, dtype=np.float32)
            self._blocks[weight.std] = encode(numbers * np.float32(weight.std), self.dtype)
        block, width = memoryview(self._blocks[weight.std]), WIDTHS[self.dtype]
        at, left = int(self._random.integers(_BLOCK)) * width, weight.elements * width
        while left:
            piece = block[at : at + left]
            yield bytes(piece)
            at, left = 0, left - len(piece)


def encode(numbers: NDArray[np.float32], dtype: Dtype) -> bytes:
    """float32 numbers as the bytes of `dtype`; bfloat16 rounds to nearest, ties to even."""
    if dtype == "float32":
        return numbers.astype("<f4").tobytes()
    if dtype == "float16":
        return numbers.astype("<f2").tobytes()
    bits = numbers.astype("<f4").view("<u4")
    rounded = bits + (0x7FFF + ((bits >> 16) & 1)).astype("<u4")
    half: NDArray[np.uint16] = (rounded >> 16).astype("<u2")
    return half.tobytes()


def write_safetensors(path: Path, weights: Sequence[Weight], source: Source) -> int:
    """Write one safetensors file; returns the bytes of its data."""
    width, dtype = WIDTHS[source.dtype], NAMES[source.dtype]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for weight in weights:
        begin, end = end, end + weight.elements * width
        entry = {"dtype": dtype, "shape": list(weight.shape), "data_offsets": [begin, end]}
        header[weight.name] = entry
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for weight in weights:
            for chunk in source.chunks(weight):
                file.write(chunk)
    return end


def write_weights(
    folder: Path, weights: Iterable[Weight], *, seed: int, dtype: Dtype, shards: int = 1
) -> None:
    """`model.safetensors`, or so many shards and their index."""
    everything, source = list(weights), Source(seed, dtype)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", everything, source)
        return
    weight_map: dict[str, str] = {}
    total = 0
    for number in range(shards):
        name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        share = everything[
            len(everything) * number // shards : len(everything) * (number + 1) // shards
        ]
        total += write_safetensors(folder / name, share, source)
        weight_map.update({weight.name: name for weight in share})
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)


def write_json(path: Path, value: object) -> None:
    """`value` as JSON, the way model repositories store it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
