"""Rotation and attention of a decoder on a CPU, for texts that are whole in their batch.

Both work on some texts of one length at a time. The rotation takes what the projection gave, norms
the heads of queries and keys where the model does, and writes them as the attention's products
want them; the norm's weight is in the table of angles, so it costs no pass of its own. Attention is
two products with powers of two between them, as `attention.attend` computes it for encoders, in
blocks of queries: a block multiplies with the keys up to its own end, so half of the square is not
computed, and memory grows with the length and not with its square. On an Intel processor PyTorch's
own kernel takes bfloat16: three quarters of the time at 128 tokens, half at 2048 (decision 127).
"""

from typing import NamedTuple

import torch

from qlaunch_sglang import attention
from qlaunch_sglang.attention import FAR, LOG2_E

SCORES = 1 << 22
"""Scores that a block of queries computes at once, all heads and texts together."""
ROWS = 256
"""Queries of a block, at most; fewer where a text is so long that they exceed SCORES."""


class Heads(NamedTuple):
    """How an attention is cut into heads."""

    queries: int
    keys: int
    size: int
    scale: float
    causal: bool

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.queries // self.keys


class Angles(NamedTuple):
    """What a layer's queries or keys are turned by: four factors, [positions, half a head] each."""

    cos_low: torch.Tensor
    sin_high: torch.Tensor
    cos_high: torch.Tensor
    sin_low: torch.Tensor


def angles(table: torch.Tensor, norm: torch.Tensor | None) -> Angles:
    """The factors of some positions, with the weight of the heads' norm in them.

    Args:
        table: [positions, head size], float32: cosines, then sines.
        norm: [head size], or None where heads are not normed.
    """
    cos, sin = table.chunk(2, dim=-1)
    if norm is None:
        return Angles(cos, sin, cos, sin)
    low, high = norm.float().chunk(2)
    return Angles(cos * low, sin * high, cos * high, sin * low)


def turned(x: torch.Tensor, by: Angles, eps: float | None, factor: float, out: torch.Tensor):
    """Norm and rotate heads, and write them where they are wanted.

    Args:
        x: [texts, length, heads, head size], what the projection gave.
        by: for the positions of one text.
        eps: of the heads' norm; None where they are not normed.
        factor: what all is multiplied by at the end.
        out: [texts, length, heads, head size] of the attention's dtype, in any layout.
    """
    x = x.float()
    low, high = x.chunk(2, dim=-1)
    cos_low, sin_high, cos_high, sin_low = (each.unsqueeze(1) for each in by)
    found = torch.empty_like(x, memory_format=torch.contiguous_format)
    first, second = found.chunk(2, dim=-1)
    torch.mul(low, cos_low, out=first).addcmul_(high, sin_high, value=-1)
    torch.mul(high, cos_high, out=second).addcmul_(low, sin_low)
    if eps is None:
        torch.mul(found, factor, out=out)
        return
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    scale = size.square_().div_(x.shape[-1]).add_(eps).rsqrt_().mul_(factor)
    torch.mul(found, scale, out=out)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: Heads, out):
    """Attention of the last `rows` tokens of each text to its tokens, or to those before them.

    Args:
        query: [texts, query heads, rows, size], contiguous, times scale and log2(e).
        key, value: [texts, key heads, length, size], contiguous.
        out: [texts, query heads, rows, size], in any layout.
    """
    texts, _, rows, size = query.shape
    length, together = key.shape[2], texts * heads.keys
    if rows == length and query.dtype == torch.bfloat16 and attention.intel():
        whole = query, key, value
        out.copy_(attention.fused(*whole, 1 / LOG2_E, causal=heads.causal, grouped=True))
        return
    query = query.view(together, heads.group, rows, size)
    out = out.unflatten(1, (heads.keys, heads.group))
    key, value = (x.view(together, length, size) for x in (key, value))
    step = max(16, min(ROWS, SCORES // (texts * heads.queries * length)))
    for start in range(0, rows, step):
        end = min(start + step, rows)
        # The last token that this block may see.
        seen = length - rows + end if heads.causal else length
        part = query[:, :, start:end].reshape(together, heads.group * (end - start), size)
        found, sums = _weighted(part, key[:, :seen], value[:, :seen], end - start, heads.causal)
        shape = texts, heads.keys, heads.group, end - start
        torch.div(found.view(*shape, size), sums.view(*shape, 1), out=out[:, :, :, start:end])


def _weighted(query, key, value, rows: int, causal: bool):
    """Sums of values by powers of two, and the sums of the powers."""
    powers = _scores(query, key)
    torch.exp2(powers, out=powers)
    if causal and rows > 1:
        _no_future(powers, rows)
    sums = powers.sum(dim=-1, keepdim=True)
    least, greatest = sums.aminmax()
    if not (least > 1 / FAR and greatest < FAR):
        powers = _scores(query, key)
        if causal and rows > 1:
            future = torch.ones(rows, key.shape[1], dtype=torch.bool).triu_(key.shape[1] - rows + 1)
            powers.view(len(key), -1, rows, key.shape[1]).masked_fill_(future, -torch.inf)
        powers = torch.softmax(powers.mul_(1 / LOG2_E), dim=-1)
        sums = torch.ones_like(sums)
    return torch.bmm(powers, value), sums


def _no_future(powers, rows: int) -> None:
    """Set what a query would see after itself to nothing; the last `rows` keys are the queries'."""
    length = powers.shape[-1]
    own = powers.view(-1, rows, length)[:, :, length - rows :]
    own.tril_()


def _scores(query, key):
    return torch.bmm(query, key.transpose(1, 2))
