"""Linear layers of encoders on a CPU with weights laid out for oneDNN once, and fused.

PyTorch lays a weight out anew for every product (bfloat16: oneDNN; float32: MKL's packing), and
writes a layer's GELU and the sum with its input as passes of their own over memory. oneDNN does
both inside the product. The operators are PyTorch's own; its compiler uses them for what it
freezes, and needs no compiler here. oneDNN computes float32 in lower precision only where a program
asks for that; where the launcher chose float32 for want of bfloat16, FBGEMM computes it with
weights of 16 bits.

Measured by processor: see docs/decisions.md.
"""

import logging
import os

import torch
from torch import nn

from qlaunch_sglang import int8, portions

logger = logging.getLogger(__name__)

ROWS = 1024
"""Tokens of a batch that the layout is chosen for; others work too."""
MOST_HALF = 65504
"""The greatest number of float16."""
LEAST_HALF = 2.0**-14
"""The least number of float16 that has all its 11 bits: enough for the greatest of a row."""


class OneDnnLinear:
    """`x W + b` by oneDNN, in the weight's dtype.

    Args:
        weight: [out, in]; a copy is made.
        bias: [out] or None.
    """

    def __init__(self, weight, bias):
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)
        self._bias = bias
        # oneDNN's GELU in float32 takes three times PyTorch's own with AVX2, and with AVX-512 as
        # much; in bfloat16 a pass of its own would round once more.
        self._apart = weight.dtype == torch.float32

    def __call__(self, x, activation: str = "none"):
        """[tokens, in] → [tokens, out]."""
        operator = torch.ops.mkldnn._linear_pointwise
        return operator(x, self._weight, self._bias, activation, [], "none")

    def gelu(self, x):
        """GELU of the same."""
        return torch.ops.aten.gelu_(self(x)) if self._apart else self(x, "gelu")

    def added(self, x, stream):
        """The same plus what is in `stream`, [tokens, out]."""
        operator = torch.ops.mkldnn._linear_pointwise.binary
        return operator(x, stream, self._weight, self._bias, "add")


class HalfLinear:
    """The same in float32 with the weight kept in float16, by FBGEMM.

    Numbers that the weight is made of keep 11 of their 24 bits. What is multiplied is float32, and
    read from half the memory; nothing is compiled for a number of tokens. Rows beyond float16's
    range, or below where it is exact, are kept at a power of two of theirs.
    """

    def __init__(self, weight, bias):
        self._by = scales(weight)
        self._bias = bias
        if self._by is not None:
            weight, bias = weight / self._by.unsqueeze(1), None
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight.contiguous(), bias)

    def __call__(self, x):
        """[tokens, in] → [tokens, out]."""
        y = torch.ops.quantized.linear_dynamic_fp16(x, self._packed)
        if self._by is None:
            return y
        y.mul_(self._by)
        return y if self._bias is None else y.add_(self._bias)

    def gelu(self, x):
        """GELU of the same."""
        return torch.ops.aten.gelu_(self(x))

    def added(self, x, stream):
        """The same plus what is in `stream`, [tokens, out]."""
        return self(x).add_(stream)


class PackedBetween(nn.Module):
    """An activation of `x W + b`: the beginning of a feed-forward block."""

    def __init__(self, block, activation: str):
        super().__init__()
        self.linear = pack(block.dense)
        self._activation = None if activation == "gelu" else block.intermediate_act_fn

    def forward(self, x):
        """[tokens, in] → [tokens, out]."""
        return self._activation(self.linear(x)) if self._activation else self.linear.gelu(x)


class PackedProjection(nn.Module):
    """`x W + b`, answering as SGLang's linear layers do: with no bias left to add."""

    def __init__(self, dense):
        super().__init__()
        self.linear = pack(dense)

    def forward(self, x):
        """[tokens, in] → ([tokens, out], None)."""
        return self.linear(x), None


class PackedOutput(nn.Module):
    """`LayerNorm(x W + b + input)`: the end of an attention or of a feed-forward block."""

    def __init__(self, block):
        super().__init__()
        self.linear = pack(block.dense)
        self.LayerNorm = block.LayerNorm

    def forward(self, x, added):
        """[tokens, in], [tokens, out] → [tokens, out]."""
        return self.LayerNorm(self.linear.added(x, added))


def pack(dense) -> "OneDnnLinear | HalfLinear":
    """What computes a linear layer, whose own weight is let go."""
    linear = linear_of(dense.weight.data, dense.bias.data)
    dense.weight.data = dense.weight.data.new_empty(0)
    return linear


def scales(weight):
    """Powers of two that rows of `weight`, [out, in] in float32, are divided by before they are
    kept in float16: [out], or None where all rows may stay as they are."""
    largest = weight.abs().amax(dim=1)
    odd = (largest >= MOST_HALF) | ((largest < LEAST_HALF) & (largest > 0))
    if not odd.any():
        return None
    # Neither the division nor its reciprocal leaves float32's own range.
    exponents = torch.frexp(largest).exponent.clamp(-120, 120)
    return torch.where(odd, torch.ldexp(torch.ones_like(largest), exponents), 1.0)


def linear_of(weight, bias) -> "OneDnnLinear | HalfLinear":
    """What computes `x W + b`: a copy of the weight, [out, in], is laid out for it."""
    half = weight.dtype == torch.float32 and halves_weights() and bool(weight.isfinite().all())
    return (HalfLinear if half else OneDnnLinear)(weight, bias)


def halves_weights() -> bool:
    """Whether the launcher lets float32's weights be kept in float16, and PyTorch can do it."""
    return (
        os.environ.get("QLAUNCH_WEIGHTS") == "float16"
        and "fbgemm" in torch.backends.quantized.supported_engines
        and hasattr(torch.ops.quantized, "linear_dynamic_fp16")
    )


def packed_how() -> str:
    """That linear layers are laid out, and in what, for the log."""
    return "yes, float32's weights in float16" if halves_weights() else "yes"


def pack_layers(model, encoder, activation: str) -> None:
    """Replace the linear layers of a BertEncoder whose weights are loaded, where that is right.

    Raises:
        RuntimeError: 8-bit integers are asked for and cannot be had.
    """
    if int8.wanted():
        int8.quantise(model, encoder, activation)
        compiled = int8.product_here() is int8.OneDnnProduct
    else:
        compiled = _pack(encoder, activation)
    portions.divide(encoder, round_up=compiled)


def _pack(encoder, activation: str) -> bool:
    """Whether products are now compiled for each number of tokens, as oneDNN's are."""
    why_not = _why_not(encoder)
    logger.info("qlaunch: packed linear layers: %s", why_not or packed_how())
    if why_not:
        return False
    for layer in encoder.layer:
        attention = layer.attention.self_attn
        attention.qkv_proj = PackedProjection(attention.qkv_proj)
        layer.attention.output = PackedOutput(layer.attention.output)
        layer.intermediate = PackedBetween(layer.intermediate, activation)
        layer.output = PackedOutput(layer.output)
    return any(isinstance(layer.output.linear, OneDnnLinear) for layer in encoder.layer)


def _why_not(encoder) -> str | None:
    if getattr(encoder, "quant_config", None) is not None:
        return "no, the weights are quantised"
    return why_not_packed(encoder.layer[0].intermediate.dense.weight)


def why_not_packed(weight) -> str | None:
    """What keeps a linear layer with that weight from being packed; None where nothing does."""
    if weight.device.type != "cpu" or weight.dtype not in (torch.bfloat16, torch.float32):
        return f"no, for {weight.dtype} on {weight.device.type}"
    operators = torch.ops.mkldnn
    needed = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    if not all(hasattr(operators, name) for name in needed):
        return "no, this PyTorch does not have the operators"
    if weight.dtype == torch.bfloat16 and not operators._is_mkldnn_bf16_supported():
        return "no, this processor does not compute bfloat16"
    return None
