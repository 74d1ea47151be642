"""Weights that are no numbers: what a training that diverged leaves behind."""

from __future__ import annotations

import array
import os
import sys
from collections.abc import Sequence
from typing import Final

from launcher.model.files import broken, open_regular
from launcher.model.safetensors import Header, Tensor

_EXPONENTS: Final = {"F32": ("I", 0x7F800000), "F16": ("H", 0x7C00), "BF16": ("H", 0x7F80)}
"""Array type of a number's bits, and the bits that are all set in NaN and infinity."""
_LARGEST: Final = 1 << 16
"""Elements of a tensor that is looked at: normalisations are as long as a model is wide."""


def check_finite(headers: Sequence[Header]) -> None:
    """Refuse a checkpoint whose normalisations hold NaN or infinity.

    A step of training with a NaN in it reaches every weight, so the smallest tensors tell: some
    hundred kilobytes of a model, and not the gigabytes of all.

    Raises:
        QlaunchError: `model_corrupt`, exit 2.
    """
    for header in headers:
        chosen = [tensor for tensor in header.tensors if _is_norm(tensor)]
        if not chosen:
            continue
        with os.fdopen(open_regular(header.path), "rb") as file:
            for tensor in chosen:
                file.seek(header.data_start + tensor.begin)
                if not _finite(tensor.dtype, file.read(tensor.end - tensor.begin)):
                    raise broken(
                        header.path,
                        f"holds NaN or infinity in {tensor.name}: its training diverged",
                        fix="take an earlier state of the model",
                    )


def _is_norm(tensor: Tensor) -> bool:
    return (
        "norm" in tensor.name.lower()
        and tensor.dtype in _EXPONENTS
        and len(tensor.shape) == 1
        and tensor.elements <= _LARGEST
    )


def _finite(dtype: str, data: bytes) -> bool:
    kind, exponent = _EXPONENTS[dtype]
    bits = array.array(kind)
    bits.frombytes(data)
    if sys.byteorder == "big":
        bits.byteswap()
    return all(each & exponent != exponent for each in bits)
