"""A checkpoint as its card describes it, for plans made before the model's files are here. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from launcher.model.checkpoint import Checkpoint, ModelCard, Shape

BITS: Final[Mapping[str, float]] = MappingProxyType(
    {"w8a8_int8": 8, "compressed-tensors": 8, "gptq": 4.25, "awq": 4.25}
)
"""Bits a quantised weight takes with its scales, by `quant_method`. Four-bit methods keep a scale
and a zero point (32 bits together, at most) for every group of 128; eight-bit ones one scale a row.
compressed-tensors can hold other widths too: eight is the one that the profiles use."""

DTYPE_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}


def from_card(card: ModelCard, *, quantization: str | None = None) -> Checkpoint | None:
    """What the model's folder would say of itself; None where the card has no shape.

    Args:
        card: of the model.
        quantization: the `quant_method` of a quantised copy of it. Such copies keep the embedding
            table in 16 bits and pack the matrices of the layers.
    """
    shape = card.shape
    if shape is None:
        return None
    return Checkpoint(
        path=Path(placeholder(card.name)),
        architectures=(card.architecture,),
        model_type="",
        hidden_size=shape.hidden_size,
        num_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate_size,
        vocab_size=shape.vocab_size,
        context_length=card.context_length,
        stored_dtype=shape.stored_dtype,
        parameters=card.parameters,
        weight_bytes=_weight_bytes(card, shape, quantization),
        weight_files=(),
        pooling=card.pooling,
        pooling_source="model card",
        normalize=card.normalize,
        normalize_source="model card",
        dimensions=card.dimensions,
        encoder=shape.encoder,
        quantization=quantization,
        fingerprint="",
    )


def placeholder(name: str) -> str:
    """What stands in a plan for the folder of a model that is not on this machine."""
    return f"<{name}, fetched at start>"


def parameters_of(shape: Shape) -> int:
    """Elements of the embedding table and of the layers' matrices; norms, biases and positions,
    some per cent more at most, are not counted."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    if shape.encoder:
        layer = 4 * hidden**2 + 2 * hidden * inner
    else:
        queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        layer = hidden * (2 * queries + 2 * keys + 3 * inner)
    return shape.vocab_size * hidden + shape.layers * layer


def _weight_bytes(card: ModelCard, shape: Shape, quantization: str | None) -> int:
    bits = BITS.get(quantization or "")
    if bits is None:
        return card.parameters * DTYPE_BYTES[shape.stored_dtype]
    table = shape.vocab_size * shape.hidden_size
    return int(table * 2 + (card.parameters - table) * bits / 8)
