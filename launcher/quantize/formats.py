"""What a checkpoint can be quantised to, who serves it, and what its vectors must still be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

To = Literal["int8", "int4", "fp8"]


@dataclass(frozen=True)
class Format:
    """One target of `qlaunch model quantize --to`."""

    name: To
    title: str
    flag: str | None
    """Value of `--quantization`, where the checkpoint alone does not choose the kernels."""
    profile: str
    """The shipped profile that serves it."""
    worst_cosine: float
    """Least cosine of any text with float32."""
    mean_cosine: float
    recall_loss: float
    """Most that recall@10 may fall below float32's."""
    engines: Mapping[str, str]
    """What each release computes it with, by the release's name; one that cannot is absent."""


GROUP: Final = 32
"""Weights that share a scale and a zero point in int4: 4.6 bits a weight. 128, as published copies
of larger models have it, saves 0.5 bits more and loses more of the vectors."""
WORD: Final = 8
"""Rows of a matrix whose weights share a word of AWQ's layout."""

FORMATS: Final[Mapping[To, Format]] = MappingProxyType(
    {
        "int8": Format(
            name="int8",
            title="weights and activations in 8 bits (compressed-tensors, SmoothQuant)",
            flag="w8a8_int8",
            profile="gpu-2gb-int8",
            worst_cosine=0.97,
            mean_cosine=0.985,
            recall_loss=0.02,
            engines=MappingProxyType(
                dict.fromkeys(("turing", "cuda12", "cuda13"), "sgl_kernel.int8_scaled_mm")
            ),
        ),
        "int4": Format(
            name="int4",
            title=f"weights in 4 bits, groups of {GROUP} (AWQ's layout, AutoRound's rounding)",
            flag=None,
            profile="gpu-2gb-int4",
            worst_cosine=0.90,
            mean_cosine=0.93,
            recall_loss=0.03,
            engines=MappingProxyType(
                {"turing": "awq_dequantize", "cuda12": "awq_marlin", "cuda13": "awq_marlin"}
            ),
        ),
        "fp8": Format(
            name="fp8",
            title="weights and activations in fp8 e4m3 (compressed-tensors)",
            flag=None,
            profile="gpu-fp8",
            worst_cosine=0.97,
            mean_cosine=0.985,
            recall_loss=0.02,
            engines=MappingProxyType(
                dict.fromkeys(("cuda12", "cuda13"), "CompressedTensorsW8A8Fp8")
            ),
        ),
    }
)
"""By the word of `--to`. The lines divide what others published of Qwen3-Embedding-0.6B
(SmoothQuant int8 0.987 worst and 0.992 mean, int4 in blocks of 32 0.930 and 0.945) from what serves
nobody (int8 without smoothing: 0.639 and 0.846). Engines: from the releases' own sources
(srt/layers/quantization, configs/model_config.py), not tested on a card. turing's
compressed-tensors knows fp8 only, whose kernels its cards lack; with `--quantization w8a8_int8` it
reads the int8 layout as its own."""
