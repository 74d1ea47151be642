"""Headers of safetensors files, read without the weights, torch or the safetensors library.

The format: 8 bytes, the header's length as a little-endian integer; the header, a JSON object of
name -> {dtype, shape, data_offsets}; then the data, to which the offsets refer, without holes.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.errors import QlaunchError
from launcher.model.files import (
    POINTER,
    broken,
    check_stand_in,
    missing,
    open_regular,
    parse_json,
    read_json_object,
    visible,
)
from launcher.units import counted

MAX_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library itself."""
MAX_RANK = 16
"""Dimensions of a tensor; weights have at most five."""
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
DTYPE_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""The names engines use; other types are shown as safetensors spells them, in lower case."""
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Tensor:
    """One entry of a header. Offsets in bytes from the beginning of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        """Product of the shape; 1 for a scalar."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What one safetensors file says of itself; checked against its size."""

    path: Path
    raw: bytes
    """The header's JSON."""
    size: int
    """Bytes of the whole file."""
    tensors: tuple[Tensor, ...]
    """In the order of their data."""

    @property
    def data_start(self) -> int:
        """Offset of the data in the file."""
        return 8 + len(self.raw)


def read_headers(folder: Path) -> tuple[Header, ...]:
    """Headers of all weight files of a checkpoint folder, in the order of their names.

    `model.safetensors` alone if it is there, else the shards of `model.safetensors.index.json`,
    else every `*.safetensors` of the folder.

    Raises:
        QlaunchError: `model_incomplete` (nothing there, shards absent, a file cut short or empty),
            `model_corrupt` (headers that lie), `model_unsupported` (other weight formats only);
            exit 2, naming the file.
    """
    index = folder / _INDEX
    if (folder / _SINGLE).exists() or not index.exists():
        return tuple(read_header(path) for path in _without_index(folder))
    return _indexed(folder, index)


def check_names(folder: Path) -> None:
    """Refuse weights under names by which engine and transformers do not read the same files.

    transformers reads model.safetensors, or else what model.safetensors.index.json names; the
    engine reads every *.safetensors that the index does not leave out.

    Raises:
        QlaunchError: `model_incomplete` or `model_corrupt`, exit 2.
    """
    single, index = folder / _SINGLE, folder / _INDEX
    if not index.exists():
        if not single.exists():
            raise _unnamed(folder)
        return
    said = read_json_object(index)
    if not isinstance(said.get("metadata"), dict):
        raise broken(
            index,
            "has no metadata, without which transformers reads no index",
            fix='write "metadata": {} into that file',
        )
    if single.exists() and set(said["weight_map"].values()) != {_SINGLE}:
        raise broken(
            folder,
            f"holds {_SINGLE} and an index of other files, of which transformers reads the one and"
            " the engine the others",
            fix=f"move {_SINGLE}, or {_INDEX} and its shards, to another folder",
        )


def _unnamed(folder: Path) -> QlaunchError:
    first = visible(folder, "*.safetensors")[0].name
    if _SHARD.fullmatch(first):
        why = f"holds shards ({first}, …) and no {_INDEX} that says what is in them"
        return missing(folder, why)
    return missing(
        folder,
        f"holds its weights as {first}; transformers reads {_SINGLE} only",
        fix=f"rename it to {_SINGLE} if it is the whole model",
    )


def _without_index(folder: Path) -> list[Path]:
    if (folder / _SINGLE).is_symlink() or (folder / _SINGLE).exists():
        return [folder / _SINGLE]
    found = visible(folder, "*.safetensors")
    if not found:
        raise _no_weights(folder)
    for path in found:
        shard = _SHARD.fullmatch(path.name)
        if shard is None:
            continue
        for number in range(1, int(shard[3]) + 1):
            other = folder / f"{shard[1]}-{number:05d}-of-{shard[3]}.safetensors"
            if not other.exists():
                raise missing(
                    other,
                    f"is missing: {path.name} says there are {counted(int(shard[3]), 'shard')}",
                )
    return found


def _no_weights(folder: Path) -> Exception:
    others = [p.name for p in visible(folder, "*") if p.suffix in {".bin", ".pt", ".gguf", ".h5"}]
    if not others:
        return missing(folder, "holds no weights (no *.safetensors file)")
    return broken(
        folder,
        f"holds its weights as {others[0]} only; qlaunch reads safetensors",
        code="model_unsupported",
        fix="take a revision that has *.safetensors files (the hub's converter offers one for many"
        " models: hf:ORG/NAME@refs/pr/N), or write them into a copy, where torch and transformers"
        " are installed: AutoModel.from_pretrained(FOLDER).save_pretrained(FOLDER)",
    )


def _indexed(folder: Path, index: Path) -> tuple[Header, ...]:
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise broken(index, "has no weight_map that names the shards")
    for name in weight_map.values():
        if (
            not isinstance(name, str)
            or Path(name).name != name
            or not name.endswith(".safetensors")
        ):
            raise broken(index, f"names a shard that is not in this folder: {str(name)[:80]!r}")
    shards = sorted(set(weight_map.values()))
    absent = [name for name in shards if not (folder / name).exists()]
    if absent:
        listed = ", ".join(absent[:3]) + (", …" if len(absent) > 3 else "")
        raise missing(
            index,
            f"names {counted(len(shards), 'shard')}, of which {len(absent)}"
            f" {'is' if len(absent) == 1 else 'are'} missing: {listed}",
        )
    headers = tuple(read_header(folder / name) for name in shards)
    stored: dict[str, str] = {}
    for header in headers:
        for each in header.tensors:
            if each.name in stored:
                other = stored[each.name]
                raise broken(header.path, f"holds {each.name[:80]!r}, as {other} does")
            stored[each.name] = header.path.name
    for tensor, shard in weight_map.items():
        if stored.get(tensor) != shard:
            raise broken(index, f"says that {shard} holds {tensor[:80]!r}, but it does not")
    return headers


def read_header(path: Path) -> Header:
    """The header of one safetensors file, checked against the size of the file.

    Raises:
        QlaunchError: `model_incomplete` if the file is absent, empty or cut short,
            `model_corrupt` if the header is not what the format asks for; exit 2.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(len(POINTER))
        if not start:
            raise missing(path, "is empty")
        check_stand_in(path, start)
        length = int.from_bytes(start[:8], "little")
        if len(start) < 8 or length > min(MAX_HEADER, size - 8):
            told = (
                f"its header would be {length} bytes"
                if len(start) >= 8
                else "8 bytes are the least"
            )
            raise broken(path, f"is not a complete safetensors file: {size} bytes, and {told}")
        file.seek(8)
        raw = file.read(length)
    tensors = _tensors(path, parse_json(path, raw), size - 8 - length)
    return Header(path=path, raw=raw, size=size, tensors=tensors)


def _tensors(path: Path, header: Any, data_size: int) -> tuple[Tensor, ...]:
    if not isinstance(header, dict):
        raise broken(path, "has a header that is not a JSON object")
    _check_metadata(path, header.get("__metadata__"))
    found = [_tensor(path, name, said) for name, said in header.items() if name != "__metadata__"]
    if not found:
        raise missing(path, "holds no tensors")
    found.sort(key=lambda tensor: (tensor.begin, tensor.end))
    end = 0
    for tensor in found:
        if tensor.begin != end:
            raise broken(
                path, f"has a header whose tensors overlap or leave holes at {tensor.name!r}"
            )
        end = tensor.end
    if end > data_size:
        raise missing(path, f"is cut short: its tensors take {end} bytes and {data_size} are there")
    if end < data_size:
        raise broken(path, f"has {data_size - end} bytes after the last tensor")
    return tuple(found)


def _check_metadata(path: Path, said: Any) -> None:
    """Refuse a header's notes that are no texts, as the safetensors library does."""
    texts = isinstance(said, dict) and all(isinstance(value, str) for value in said.values())
    if said is not None and not texts:
        raise broken(path, "has a header whose __metadata__ is something other than texts by name")


def _tensor(path: Path, name: str, said: Any) -> Tensor:
    """One entry of the header, its offsets held against dtype and shape."""
    what = f"has a header entry that makes no sense for {name[:80]!r}"
    if not isinstance(said, dict):
        raise broken(path, what)
    dtype, shape, offsets = (
        said.get("dtype"),
        _naturals(said, "shape"),
        _naturals(said, "data_offsets"),
    )
    if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
        raise broken(path, what)
    if dtype not in _BITS:
        raise broken(path, f"has a tensor of the unknown type {dtype[:20]!r}: {name[:80]!r}")
    tensor = Tensor(name, dtype, shape, *offsets)
    if (tensor.end - tensor.begin) * 8 != tensor.elements * _BITS[dtype]:
        raise broken(path, f"{what}: the offsets do not fit its shape and type")
    return tensor


def _naturals(said: dict[str, Any], key: str) -> tuple[int, ...] | None:
    """The short list of integers from 0 to 2^63 - 1 under `key` (bool is not one), or None."""
    value = said.get(key)
    if not isinstance(value, list) or len(value) > MAX_RANK:
        return None
    return tuple(value) if all(type(v) is int and 0 <= v < 2**63 for v in value) else None
