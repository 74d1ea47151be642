"""A decoder's layers on a CPU, computed by what oneDNN and PyTorch are fastest at.

SGLang's layers write queries, keys and values to a cache and gather them from there, norm and
rotate them in passes of their own, and have PyTorch lay out every weight anew for each product.
Here a layer is computed for a few texts at a time, so that what is between its products stays near
the processor, and the memory that a forward pass takes does not grow with the batch. Where only a
text's last token is pooled, the last layer computes the queries, the end of the attention and the
feed-forward block for that token alone.

Taken where every text is whole in its batch (`attention.whole_texts`); elsewhere SGLang's own
layers stay.
"""

import logging
import re
from typing import NamedTuple

import torch

from qlaunch_sglang import causal, int8
from qlaunch_sglang.attention import LOG2_E, AttentionType, WholeTextAttention
from qlaunch_sglang.packed import linear_of, packed_how, why_not_packed
from qlaunch_sglang.pooling import lengths_of
from qlaunch_sglang.trimming import give_back

logger = logging.getLogger(__name__)

TOKENS = 512
"""Tokens of the texts that a layer computes together; a longer text goes alone."""
PIECE = 512
"""Tokens that the feed-forward block takes at a time."""
_LAYER = re.compile(r"(?:model\.)?layers\.(\d+)\.")
_PARTS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
_ATTENTION = ("qkv_proj", "o_proj", "rotary_emb", "attn")
_ROTATIONS = frozenset({
    "RotaryEmbedding", "LinearScalingRotaryEmbedding", "Llama3RotaryEmbedding",
    "YaRNScalingRotaryEmbedding",
})  # fmt: skip
"""Those that turn by a table of a position's cosines and sines, and by nothing else."""
_FEED_FORWARD = ("gate_up_proj", "act_fn", "down_proj")


def own_layers(model, *, pooled: bool) -> "Layers | None":
    """What will compute a decoder's layers once their weights are loaded; None for SGLang's own.

    Args:
        model: SGLang's decoder, without its head.
        pooled: whether only a text's last token is pooled.

    Raises:
        RuntimeError: 8-bit integers are asked for and cannot be had.
    """
    why_not = _why_not(model)
    logger.info("qlaunch: layers of our own: %s", why_not or packed_how())
    if int8.wanted():
        if why_not:
            raise RuntimeError(f"qlaunch: int8 was asked for, and cannot be had: {why_not}")
        from qlaunch_sglang.decoder_int8 import Int8Layers

        logger.info("qlaunch: the decoder is computed in int8")
        return Int8Layers(model, pooled=pooled)
    return None if why_not else Layers(model, pooled=pooled)


def _why_not(model) -> str | None:
    """What keeps SGLang's layers; None where nothing does."""
    layers = list(model.layers)
    if len(layers) != getattr(model, "end_layer", len(layers)) or getattr(model, "start_layer", 0):
        return "no, the layers are spread over stages"
    why_not = why_not_packed(model.embed_tokens.weight)
    return why_not or next(filter(None, map(_odd, layers)), None)


def _odd(layer) -> str | None:
    """What a layer has that ours have not; None where that is nothing."""
    absent = [name for name in _PARTS if not hasattr(layer, name)]
    if not absent:
        absent = [name for name in _ATTENTION if not hasattr(layer.self_attn, name)]
        absent += [name for name in _FEED_FORWARD if not hasattr(layer.mlp, name)]
    if absent:
        return f"no, a layer has no {absent[0]}"
    attention, mlp = layer.self_attn, layer.mlp
    if not isinstance(attention.attn, WholeTextAttention):
        return "no, texts are not computed whole"
    linears = attention.qkv_proj, attention.o_proj, mlp.gate_up_proj, mlp.down_proj
    if any(getattr(linear, "tp_size", 1) != 1 for linear in linears):
        return "no, the layers are spread over processes"
    if not all(_is_plain(linear) for linear in linears):
        return "no, the weights are quantised"
    return _odd_rotation(attention) or _odd_activation(mlp)


def _is_plain(linear) -> bool:
    """Whether its weight is a matrix of numbers, and not what a quantised checkpoint holds."""
    weight = getattr(linear, "weight", None)
    return weight is not None and weight.dtype.is_floating_point and weight.dtype.itemsize > 1


def _odd_rotation(attention) -> str | None:
    rotation, size = attention.rotary_emb, attention.attn.head_dim
    plain = (
        getattr(rotation, "is_neox_style", False)
        and getattr(rotation, "rotary_dim", None) == size
        and hasattr(rotation, "_compute_cos_sin_cache")
        and type(rotation).__name__ in _ROTATIONS
    )
    return None if plain else f"no, positions are turned by {type(rotation).__name__}"


def _odd_activation(mlp) -> str | None:
    name = type(mlp.act_fn).__name__
    return None if name == "SiluAndMul" else f"no, the activation is {name}"


class Norm(NamedTuple):
    """An RMSNorm's weight and epsilon."""

    weight: torch.Tensor
    eps: float

    @classmethod
    def of(cls, module) -> "Norm":
        """Those of SGLang's layer."""
        return cls(module.weight.data.float(), module.variance_epsilon)

    def __call__(self, x):
        """[tokens, width] → the same, normed in float32, in the dtype of `x`."""
        wide = x.float()
        size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = size.square_().div_(x.shape[-1]).add_(self.eps).rsqrt_()
        return torch.mul(wide, scale).mul_(self.weight).to(x.dtype)


class Group(NamedTuple):
    """Neighbouring texts that a layer computes together."""

    start: int
    end: int
    lengths: tuple[int, ...]

    @property
    def ends(self) -> torch.Tensor:
        """Where each text's last token is, from the start of the batch."""
        return torch.tensor(self.lengths).cumsum(0).add_(self.start - 1)


class PackedBlock:
    """One layer in the engine's dtype.

    Args:
        layer: SGLang's, with its weights in place; they are let go.
        pooled: whether queries and all that follows are for a text's last token alone.
        linear: what makes its linear layers of a weight and a bias.
    """

    def __init__(self, layer, *, pooled: bool, linear=linear_of):
        attention, mlp = layer.self_attn, layer.mlp
        self.attention = Attention(attention)
        self.pooled = pooled
        queries = self.attention.heads.queries * self.attention.heads.size
        weight, bias = taken(attention.qkv_proj)
        if pooled:
            self._queries = linear(*part(weight, bias, slice(queries)))
            self._keys_values = linear(*part(weight, bias, slice(queries, None)))
        else:
            self.qkv = linear(weight, bias)
        del weight
        self.output = linear(*taken(attention.o_proj))
        self.both = linear(*taken(mlp.gate_up_proj))
        self.down = linear(*taken(mlp.down_proj))
        self.before = Norm.of(layer.input_layernorm)
        self.between = Norm.of(layer.post_attention_layernorm)

    def __call__(self, stream, group: Group, table):
        """[tokens of the batch, width] → those of the group after the layer, or its last tokens.

        Args:
            stream: what the layers before have given; not changed.
            group: the texts to compute.
            table: [length of the longest text, head size], float32: cosines, then sines.
        """
        own = stream[group.start : group.end]
        normed = self.before(own)
        if self.pooled:
            ends = group.ends - group.start
            queries, both = self._queries(normed[ends]), self._keys_values(normed)
            attended = self.attention.of_last(queries, both, group.lengths, table)
            own = own[ends]
        else:
            attended = self.attention(self.qkv(normed), group.lengths, table)
        own = self.output.added(attended, own)
        return torch.cat([self._fed_forward(piece) for piece in own.split(PIECE)])

    def _fed_forward(self, stream):
        both = self.both(self.between(stream))
        gate, up = both.chunk(2, dim=-1)
        return self.down.added(torch.nn.functional.silu(gate).mul_(up), stream)


class Attention:
    """Queries, keys and values of some texts → what the output projection takes."""

    def __init__(self, module):
        attn = module.attn
        self.heads = causal.Heads(
            attn.tp_q_head_num,
            attn.tp_k_head_num,
            attn.head_dim,
            attn.scaling,
            attn.attn_type == AttentionType.DECODER,
        )
        norms = getattr(module, "q_norm", None), getattr(module, "k_norm", None)
        self._weights = [None if norm is None else norm.weight.data for norm in norms]
        self._eps = [None if norm is None else norm.variance_epsilon for norm in norms]
        self.dtype = module.qkv_proj.weight.dtype

    def __call__(self, qkv, lengths, table):
        """Attend within each text.

        Args:
            qkv: [tokens, (query heads + 2 × key heads) × head size].
            lengths: of the texts.
            table: as a block takes it.

        Returns:
            [tokens, query heads × head size].
        """
        heads = self.heads
        out = qkv.new_empty(len(qkv), heads.queries, heads.size, dtype=self.dtype)
        for start, count, length in runs(lengths):
            rows = slice(start, start + count * length)
            x = qkv[rows].view(count, length, -1, heads.size)
            query = self._turned(0, x[:, :, : heads.queries], table[:length])
            key, value = self._keys_values(x[:, :, heads.queries :], table)
            into = out[rows].view(count, length, heads.queries, heads.size)
            causal.attend(query, key, value, heads, into.transpose(1, 2))
        return out.view(len(qkv), -1)

    def of_last(self, queries, both, lengths, table):
        """The same for each text's last token.

        Args:
            queries: [texts, query heads × head size].
            both: [tokens, 2 × key heads × head size], keys and values.
            lengths, table: as above.

        Returns:
            [texts, query heads × head size].
        """
        heads, done = self.heads, 0
        out = queries.new_empty(len(queries), heads.queries, heads.size, dtype=self.dtype)
        for start, count, length in runs(lengths):
            x = both[start : start + count * length].view(count, length, -1, heads.size)
            texts = slice(done, done + count)
            last = queries[texts].view(count, 1, heads.queries, heads.size)
            query = self._turned(0, last, table[length - 1 : length])
            key, value = self._keys_values(x, table)
            into = out[texts].view(count, 1, heads.queries, heads.size)
            causal.attend(query, key, value, heads, into.transpose(1, 2))
            done += count
        return out.view(len(queries), -1)

    def _keys_values(self, x, table):
        """[texts, length, 2 × key heads, size] → both as attention takes them."""
        keys, length = self.heads.keys, x.shape[1]
        value = x.new_empty(len(x), keys, length, self.heads.size, dtype=self.dtype)
        value.copy_(x[:, :, keys:].transpose(1, 2))
        return self._turned(1, x[:, :, :keys], table[:length]), value

    def _turned(self, which: int, x, table):
        """[texts, length, heads, size] → [texts, heads, length, size], turned; queries scaled."""
        texts, length, count, size = x.shape
        out = x.new_empty(texts, count, length, size, dtype=self.dtype)
        factor = 1.0 if which else self.heads.scale * LOG2_E
        by = causal.angles(table, self._weights[which])
        causal.turned(x, by, self._eps[which], factor, out.transpose(1, 2))
        return out


class Layers:
    """What takes the place of a decoder's layers: from tokens to normed states.

    Args:
        model: SGLang's decoder, without its head.
        pooled: whether only a text's last token is wanted.
    """

    def __init__(self, model, *, pooled: bool):
        self._model = model
        self.pooled = pooled
        self._blocks: dict[int, PackedBlock] = {}
        self._table = angle_table(model)

    def start(self) -> None:
        """Begin: all that is not a layer's is loaded."""

    def take(self, number: int) -> None:
        """Take over a layer whose weights are loaded, after those before it."""
        last = number == len(self._model.layers) - 1
        pooled = self.pooled and last
        self._blocks[number] = PackedBlock(self._model.layers[number], pooled=pooled)
        give_back()

    def __call__(self, input_ids, forward_batch, input_embeds=None):
        """Tokens of a batch → [tokens, width], or [texts, width] where only the last is pooled."""
        stream = self.embedded(input_ids) if input_embeds is None else input_embeds
        lengths = lengths_of(forward_batch)
        table = self._table[: max(lengths)]
        for number in range(len(self._blocks)):
            block = self._blocks[number]
            stream = torch.cat([block(stream, group, table) for group in groups(lengths)])
        return Norm.of(self._model.norm)(stream)

    def embedded(self, input_ids):
        """[tokens] → [tokens, width]."""
        return self._model.embed_tokens(input_ids)


def groups(lengths: list[int]):
    """Neighbouring texts of at most TOKENS tokens, or one text."""
    start, texts = 0, []
    for length in lengths:
        if texts and sum(texts) + length > TOKENS:
            yield Group(start, start + sum(texts), tuple(texts))
            start, texts = start + sum(texts), []
        texts.append(length)
    if texts:
        yield Group(start, start + sum(texts), tuple(texts))


def runs(lengths):
    """(first token, count, length) of neighbours of one length."""
    start = at = 0
    while at < len(lengths):
        end = at + 1
        while end < len(lengths) and lengths[end] == lengths[at]:
            end += 1
        yield start, end - at, lengths[at]
        start, at = start + (end - at) * lengths[at], end


def taken(linear):
    """Weight and bias of one of SGLang's linear layers, which keeps none."""
    weight, bias = linear.weight.data, getattr(linear, "bias", None)
    linear.weight.data = weight.new_empty(0)
    return weight, None if bias is None else bias.data


def part(weight, bias, rows: slice):
    """Some rows of a linear layer."""
    return weight[rows], None if bias is None else bias[rows]


def angle_table(model) -> torch.Tensor:
    """Cosines and sines of all positions, [positions, head size], in float32.

    SGLang's own table, which on a CPU is in the engine's dtype, is let go.
    """
    for layer in model.layers:
        rotation = layer.self_attn.rotary_emb
        rotation.cos_sin_cache = rotation.cos_sin_cache.new_empty(0)
    return model.layers[0].self_attn.rotary_emb._compute_cos_sin_cache().float()


def by_layer(weights, layers: Layers):
    """The same names and tensors, those of a layer one after the other.

    Args:
        weights: (name, tensor) of the whole checkpoint, mapped and not read.
        layers: told when all tensors of a layer have been taken.
    """
    numbered = sorted(((_number(name), name, tensor) for name, tensor in weights), key=_order)
    last = -1
    for number, name, tensor in numbered:
        if number != last:
            _done(layers, last)
        last = number
        yield name, tensor
    _done(layers, last)


def _done(layers: Layers, number: int) -> None:
    if number < 0:
        layers.start()
    else:
        layers.take(number)


def _order(entry) -> int:
    return entry[0]


def _number(name: str) -> int:
    match = _LAYER.match(name)
    return int(match[1]) if match else -1
