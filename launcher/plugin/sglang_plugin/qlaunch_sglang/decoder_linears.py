"""A decoder's linear layers on a CPU, laid out for oneDNN once."""

import torch

from qlaunch_sglang.packed import ROWS


class PackedLinear:
    """`x W + b`, in the weight's dtype.

    Args:
        weight: [out, in]; a copy is made.
        bias: [out] or None.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None):
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)
        self._bias = bias

    def __call__(self, x):
        """[tokens, in] → [tokens, out]."""
        operator = torch.ops.mkldnn._linear_pointwise
        return operator(x, self._weight, self._bias, "none", [], "none")

    def added(self, x, stream):
        """The same plus what is in `stream`, [tokens, out]."""
        operator = torch.ops.mkldnn._linear_pointwise.binary
        return operator(x, stream, self._weight, self._bias, "add")
