"""Linear layers of encoders on a CPU with weights laid out for oneDNN once, and fused.

PyTorch lays a weight out anew for every product (bfloat16: oneDNN; float32: MKL's packing), and
writes a layer's GELU and the sum with its input as passes of their own over memory. oneDNN does
both inside the product. The operators are PyTorch's own; its compiler uses them for what it
freezes, and needs no compiler here. float32 stays float32: oneDNN computes it in lower precision
only where a program asks for that.

Measured by processor: see docs/decisions.md.
"""

import logging

import torch
from torch import nn

from qlaunch_sglang import int8, portions

logger = logging.getLogger(__name__)

ROWS = 1024
"""Tokens of a batch that the layout is chosen for; others work too."""


class PackedLinear(nn.Module):
    """`x W + b`, or with `gelu` that of it: where SGLang has a linear layer and an activation."""

    def __init__(self, dense, *, gelu: bool = False):
        super().__init__()
        # oneDNN's GELU in float32 takes three times PyTorch's own with AVX2, and with AVX-512 as
        # much; in bfloat16 a pass of its own would round once more.
        self._after = gelu and dense.weight.dtype == torch.float32
        self._fused = "gelu" if gelu and not self._after else "none"
        self._weight, self._bias = pack(dense)

    def forward(self, x):
        """[tokens, in] → [tokens, out]."""
        product = torch.ops.mkldnn._linear_pointwise(
            x, self._weight, self._bias, self._fused, [], "none"
        )
        return torch.ops.aten.gelu_(product) if self._after else product


class PackedProjection(PackedLinear):
    """The same, answering as SGLang's linear layers do: with no bias left to add."""

    def forward(self, x):
        """[tokens, in] → ([tokens, out], None)."""
        return super().forward(x), None


class PackedOutput(nn.Module):
    """`LayerNorm(x W + b + input)`: the end of an attention or of a feed-forward block."""

    def __init__(self, block):
        super().__init__()
        self._weight, self._bias = pack(block.dense)
        self.LayerNorm = block.LayerNorm

    def forward(self, x, added):
        """[tokens, in], [tokens, out] → [tokens, out]."""
        summed = torch.ops.mkldnn._linear_pointwise.binary(
            x, added, self._weight, self._bias, "add"
        )
        return self.LayerNorm(summed)


def pack(dense):
    """Weight (in oneDNN's layout) and bias of a linear layer, whose own weight is let go."""
    weight = torch.ops.mkldnn._reorder_linear_weight(dense.weight.data, ROWS)
    bias = dense.bias.data
    dense.weight.data = dense.weight.data.new_empty(0)
    return weight, bias


def pack_layers(model, encoder, activation: str) -> None:
    """Replace the linear layers of a BertEncoder whose weights are loaded, where that is right.

    Raises:
        RuntimeError: 8-bit integers are asked for and cannot be had.
    """
    if int8.wanted():
        int8.quantise(model, encoder, activation)
    else:
        _pack(encoder, activation)
    portions.divide(encoder)


def _pack(encoder, activation: str) -> None:
    why_not = _why_not(encoder, activation)
    logger.info("qlaunch: packed linear layers: %s", why_not or "yes")
    if why_not:
        return
    for layer in encoder.layer:
        attention = layer.attention.self_attn
        attention.qkv_proj = PackedProjection(attention.qkv_proj)
        layer.attention.output = PackedOutput(layer.attention.output)
        layer.intermediate = PackedLinear(layer.intermediate.dense, gelu=True)
        layer.output = PackedOutput(layer.output)


def _why_not(encoder, activation: str) -> str | None:
    if activation != "gelu":
        return f"no, the activation is {activation}"
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
