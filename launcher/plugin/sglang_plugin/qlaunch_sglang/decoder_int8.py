"""A decoder in 8-bit integers on a CPU: its linear layers, and its table of embeddings.

Layers are quantised one after the other while the checkpoint is loaded, so that what the model was
stored in is never in memory as a whole. Before a layer is quantised, texts of many scripts go
through it as it is; what they show of its activations is used to even out channels, and to compute
apart the few channels of a feed-forward block that reach thousands on a text's first token. No
scale is taken from those texts: each token brings its own (`decoder_linears.in_steps`).

The stream between layers, the norms and what a feed-forward block multiplies are float32; attention
is computed in the engine's dtype.
"""

import os
from pathlib import Path

import torch
from torch.nn import functional

from qlaunch_sglang import int8
from qlaunch_sglang.decoder_layers import PIECE, Group, Layers, Norm, PackedBlock, groups, part
from qlaunch_sglang.decoder_linears import Int8Linear, in_steps
from qlaunch_sglang.trimming import give_back

ALPHA = 0.5
"""How much of a channel's spread the weights take over."""
APART = 8
"""Channels of a feed-forward block that are computed apart."""
TABLE_ROWS = 8192
"""Rows of the table of embeddings that are quantised at a time."""


class Watched:
    """A linear layer as it was loaded, which notes how far each channel of its input reaches."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None):
        self.weight, self.bias = weight, bias
        self.reach = torch.zeros(weight.shape[1])

    def __call__(self, x):
        """[tokens, in] → [tokens, out]."""
        torch.maximum(self.reach, x.abs().amax(dim=0).float(), out=self.reach)
        return functional.linear(x, self.weight, self.bias)

    def added(self, x, stream):
        """The same plus what is in `stream`."""
        return self(x).add_(stream)

    def evening(self, without: torch.Tensor | None = None) -> torch.Tensor:
        """A divisor for every channel of the input, by which the weight's column is multiplied."""
        reach = self.reach.clamp(min=1e-5)
        columns = self.weight.abs().amax(dim=0).float().clamp_(min=1e-5)
        divisor = reach**ALPHA / columns ** (1 - ALPHA)
        if without is not None:
            divisor[without] = 1.0
        return divisor / divisor.mean()


class AfterNorm:
    """Linear layers that read a norm's output: the norm's weight is theirs, its root a scale."""

    def __init__(self, norm: Norm, *layers: Watched, dtype: torch.dtype):
        divisor = layers[0].evening()
        self._factor = norm.weight / divisor
        self._eps = norm.eps
        self._layers = [
            Int8Linear(each.weight.float() * divisor, each.bias, dtype) for each in layers
        ]

    def steps(self, stream):
        """[tokens, width] → its normed steps and a scale a token, for any of the layers."""
        steps, scales = in_steps(stream, self._factor)
        size = torch.linalg.vector_norm(stream, dim=-1, keepdim=True)
        root = size.square_().div_(stream.shape[-1]).add_(self._eps).rsqrt_()
        return steps, scales.mul_(root)

    def product(self, which: int, steps):
        """[tokens, out] of one of the layers, to be multiplied by the scales."""
        return self._layers[which].product(steps)

    def __call__(self, which: int, steps, scales):
        """[tokens, out] of one of the layers in float32, with its bias."""
        layer = self._layers[which]
        found = layer.product(steps) * scales
        return found if layer.bias is None else found.add_(layer.bias)


class Int8Output:
    """`x W + b + stream`, with some channels of `x` computed apart in float32."""

    def __init__(self, layer: Watched, apart: int = 0):
        weight = layer.weight.float()
        self._apart = layer.reach.topk(min(apart, len(layer.reach) // 2)).indices if apart else None
        divisor = layer.evening(self._apart)
        self._columns = None
        if self._apart is not None:
            self._columns = weight[:, self._apart].t().contiguous()
            weight[:, self._apart] = 0
        self._factor = divisor.reciprocal()
        self._linear = Int8Linear(weight * divisor, layer.bias, torch.float32)

    def added(self, x, stream, rows=None):
        """[tokens, in], [tokens, out] → [tokens, out], float32.

        Args:
            x: overwritten where channels are computed apart.
            rows: [tokens, 1], what `x` still is to be multiplied by; None for 1.
        """
        some = None
        if self._apart is not None:
            some = x[:, self._apart].float()
            x[:, self._apart] = 0
            some = some if rows is None else some.mul_(rows)
        steps, scales = in_steps(x, self._factor)
        scales = scales if rows is None else scales.mul_(rows)
        found = torch.addcmul(stream, self._linear.product(steps), scales)
        if some is not None:
            found.addmm_(some, self._columns)
        return found if self._linear.bias is None else found.add_(self._linear.bias)


class Int8Block:
    """One layer in 8-bit integers, made of what was watched; called as a PackedBlock is."""

    def __init__(self, watched: PackedBlock, *, pooled: bool):
        self.attention, self.pooled = watched.attention, pooled
        dtype = self.attention.dtype
        qkv, queries = watched.qkv, self.attention.heads.queries * self.attention.heads.size
        parts = [qkv]
        if pooled:
            parts = [_some(qkv, slice(queries)), _some(qkv, slice(queries, None))]
        self._before = AfterNorm(watched.before, *parts, dtype=dtype)
        self._output = Int8Output(watched.output)
        self._between = AfterNorm(watched.between, watched.both, dtype=dtype)
        self._down = Int8Output(watched.down, APART)

    def __call__(self, stream, group: Group, table):
        """[tokens of the batch, width] → those of the group after the layer, or its last tokens."""
        own = stream[group.start : group.end]
        steps, scales = self._before.steps(own)
        if self.pooled:
            ends = group.ends - group.start
            queries = self._before(0, steps[ends], scales[ends])
            both = self._before(1, steps, scales)
            attended = self.attention.of_last(queries, both, group.lengths, table)
            own = own[ends]
        else:
            attended = self.attention(self._before(0, steps, scales), group.lengths, table)
        own = self._output.added(attended, own)
        return torch.cat([self._fed_forward(piece) for piece in own.split(PIECE)])

    def _fed_forward(self, stream):
        steps, scales = self._between.steps(stream)
        gate, up = self._between.product(0, steps).chunk(2, dim=-1)
        # The scale of `up` is left to the end: a scale a token changes no step of the product.
        found = functional.silu(gate * scales, inplace=True).mul_(up)
        return self._down.added(found, stream, scales)


class Int8Table:
    """A table of embeddings in whole steps, with a scale a row."""

    def __init__(self, table: torch.Tensor):
        self._steps = torch.empty(table.shape, dtype=torch.int8)
        self._scales = torch.empty(len(table), 1)
        for start in range(0, len(table), TABLE_ROWS):
            rows = table[start : start + TABLE_ROWS].float()
            scales = rows.abs().amax(dim=1, keepdim=True).clamp_(min=1e-12).div_(127)
            self._steps[start : start + TABLE_ROWS] = rows.div_(scales).round_().to(torch.int8)
            self._scales[start : start + TABLE_ROWS] = scales

    def __call__(self, ids):
        """[tokens] → [tokens, width], float32."""
        return self._steps[ids] * self._scales[ids]


class Int8Layers(Layers):
    """A decoder's layers in int8."""

    def __init__(self, model, *, pooled: bool):
        super().__init__(model, pooled=pooled)
        self._embed = None
        self._states = None
        """What the calibration texts have become after the layers that were taken."""
        self._lengths: list[int] = []

    def start(self) -> None:
        """Take the table, and begin with the calibration texts."""
        table = self._model.embed_tokens.weight
        self._embed = Int8Table(table.data)
        dtype = table.dtype
        table.data = table.data.new_empty(0)
        texts = int8.tokenized(Path(os.environ["QLAUNCH_MODEL_PATH"]))
        self._lengths = [len(text) for text in texts]
        ids = torch.tensor([token for text in texts for token in text])
        self._states = self._embed(ids).to(dtype)
        give_back()

    def take(self, number: int) -> None:
        """Quantise a layer whose weights are loaded, after the texts have gone through it."""
        last = number == len(self._model.layers) - 1
        watched = PackedBlock(self._model.layers[number], pooled=False, linear=Watched)
        table = self._table[: max(self._lengths)]
        states = [watched(self._states, group, table) for group in groups(self._lengths)]
        self._states = None if last else torch.cat(states)
        self._blocks[number] = Int8Block(watched, pooled=self.pooled and last)
        del watched, states
        give_back()

    def embedded(self, input_ids):
        """[tokens] → [tokens, width] in float32."""
        return self._embed(input_ids)


def _some(layer: Watched, rows: slice) -> Watched:
    """Some outputs of a watched layer; evened out as the whole is."""
    found = Watched(*part(layer.weight, layer.bias, rows))
    found.reach = layer.reach
    return found
