"""A decoder's linear layers on a CPU in int8; in the engine's dtype they are packed.py's.

int8 is computed as unsigned 8-bit activations times signed 8-bit weights into 32-bit sums, by the
operator that PyTorch's compiler uses. Activations have one scale a token, taken from the token
itself: a decoder's first token may be a thousand times the others (Sun et al. 2024), and a text's
vector never depends on its company, for sums of integers are exact. Weights have a scale an output
column. What varies by input channel is evened out between the two (SmoothQuant, Xiao et al. 2022).
"""

import torch

from qlaunch_sglang.int8 import LEAST_ROW, OneDnnWeight, levels

ZERO = 128
"""Zero of the unsigned steps. Signed activations, oneDNN computes by its slow reference."""
STEPS = 127
"""Steps of an activation on each side of it."""


class Int8Linear:
    """`x W + b` by 8-bit products.

    Args:
        weight: [out, in]; it is overwritten.
        bias: [out] or None.
        dtype: what the products are answered in, before a token's scale.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype):
        weight = weight.float()
        scales = weight.abs().amax(dim=1).clamp_(min=LEAST_ROW).div_(levels())
        whole = weight.div_(scales.unsqueeze(1)).round_().to(torch.int8)
        self._weight = OneDnnWeight(whole, scales)
        self.bias = None if bias is None else bias.float()
        self._dtype = dtype

    def product(self, steps):
        """[tokens, in] in steps → [tokens, out], to be multiplied by the tokens' scales."""
        return self._weight.product(steps, (1.0, ZERO), into=(1.0, 0, self._dtype))


def in_steps(x, factor):
    """Activations as unsigned steps around ZERO, with a scale a token.

    Args:
        x: [tokens, channels].
        factor: [channels], float32: what evens the channels out.

    Returns:
        steps [tokens, channels] in uint8, and scales [tokens, 1] in float32.
    """
    x = x * factor
    greatest = torch.linalg.vector_norm(x, torch.inf, dim=-1, keepdim=True)
    scales = greatest.clamp_(min=1e-12).div_(STEPS)
    # The half makes cutting the fraction off a rounding. By way of int32: PyTorch has no vector
    # code from float32 to uint8.
    whole = x.mul_(scales.reciprocal()).add_(ZERO + 0.5).to(torch.int32)
    return whole.to(torch.uint8), scales
