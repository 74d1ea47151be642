"""Weights that are no numbers, or were never written: what a training or a download leaves."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Final

from launcher.model.files import broken, open_regular
from launcher.model.safetensors import Header, Tensor

_EXPONENTS: Final = {
    "F64": (8, 0x7FF0 << 48), "F32": (4, 0x7F800000), "F16": (2, 0x7C00), "BF16": (2, 0x7F80),
}  # fmt: skip
"""Bytes of a number, and the bits that are all set in NaN and infinity."""
_LARGEST: Final = 1 << 16
"""Elements of a tensor that is looked at: normalisations are as long as a model is wide."""
_CHUNK: Final = 1 << 16
"""Bytes that are looked at together."""
_FINAL_NORMS: Final = ("LayerNorm.weight", "LayerNorm.gamma", "layer_norm.weight")
_OF_DECODER: Final = frozenset({"norm.weight", "model.norm.weight"})


def check_finite(headers: Sequence[Header], *, whole: bool = False) -> None:
    """Refuse weights that hold NaN or infinity, and normalisations that were never written.

    A step of training with a NaN in it reaches every weight, so the smallest tensors tell: some
    hundred kilobytes of a model, and not the gigabytes of all. A normalisation of zeros makes all
    texts one vector: a file that a download set aside and did not fill.

    Args:
        headers: of the files to look at.
        whole: every tensor is looked at, and not only the short ones.

    Raises:
        QlaunchError: `model_corrupt`, exit 2.
    """
    for header in headers:
        chosen = [t for t in header.tensors if t.dtype in _EXPONENTS and (whole or _is_short(t))]
        if not chosen:
            continue
        with os.fdopen(open_regular(header.path), "rb") as file:
            for tensor in chosen:
                check_numbers(header.path, tensor, file, header.data_start)


def check_numbers(path: Path, tensor: Tensor, file: IO[bytes], start: int = 0) -> None:
    """Refuse one tensor that holds NaN or infinity, or zeros where it was never written.

    Args:
        path: of the file, to name it.
        tensor: of a dtype that is looked at, or of another.
        file: open.
        start: of the data in it.

    Raises:
        QlaunchError: `model_corrupt`, exit 2.
    """
    if tensor.dtype not in _EXPONENTS:
        return
    file.seek(start + tensor.begin)
    left, empty = tensor.end - tensor.begin, True
    while left:
        data = file.read(min(left, _CHUNK))
        left = left - len(data) if data else 0
        empty = empty and not any(data)
        if not finite(tensor.dtype, data):
            raise broken(
                path,
                f"holds NaN or infinity in {tensor.name}: its training diverged",
                fix="take an earlier state of the model",
            )
    if empty and _scales_all(tensor.name):
        raise broken(path, f"holds only zeros in {tensor.name}: it was never written")


def _is_short(tensor: Tensor) -> bool:
    return len(tensor.shape) == 1 and 0 < tensor.elements <= _LARGEST


def _scales_all(name: str) -> bool:
    """Whether every number of every vector goes through this normalisation."""
    return name.endswith(_FINAL_NORMS) or name in _OF_DECODER


def finite(dtype: str, data: bytes) -> bool:
    """Whether `data`, whole numbers of a `dtype` of `_EXPONENTS`, holds no NaN and no infinity.

    All at once: where the bits of an exponent are all set, adding the lowest of them carries over
    into the sign's, which was taken out.
    """
    width, exponent = _EXPONENTS[dtype]
    exponents, lowest, signs = _masks(width, exponent, len(data) // width)
    return not ((int.from_bytes(data, "little") & exponents) + lowest) & signs


@lru_cache(maxsize=16)
def _masks(width: int, exponent: int, count: int) -> tuple[int, int, int]:
    """For each of `count` numbers: the exponent's bits, its lowest one, and the sign's."""

    def repeated(bits: int) -> int:
        return int.from_bytes(bits.to_bytes(width, "little") * count, "little")

    return repeated(exponent), repeated(exponent & -exponent), repeated(1 << (8 * width - 1))
