"""What decoder_layers.py touches of SGLang's decoders, and the same layers computed plainly.

For inside.py, in the engine's Python. With `massive` the activations are made as those of trained
decoders are: single channels of the residual stream a hundred times the others and taken back by
the norms, and a first token on which one feed-forward channel is thousands of times the rest.
"""

from __future__ import annotations

import math
import os
from types import SimpleNamespace
from typing import Any

import torch
from qlaunch_sglang import decoder_layers, int8
from qlaunch_sglang.attention import AttentionType, WholeTextAttention
from torch import nn

OUTLIERS = (3, 17)
"""Channels of the residual stream that are large where activations are massive."""
FIRST = 1
"""The token that every text begins with."""


class Linear(nn.Linear):  # type: ignore[misc]
    tp_size = 1


class Norm(nn.Module):  # type: ignore[misc]
    variance_epsilon = 1e-6

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(size) + 0.5)

    def forward(self, x: Any) -> Any:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return x * scale * self.weight


class RotaryEmbedding(nn.Module):  # type: ignore[misc]
    is_neox_style = True

    def __init__(self, size: int) -> None:
        super().__init__()
        self.rotary_dim = self.head_size = size
        self.register_buffer("cos_sin_cache", torch.empty(0), persistent=False)

    def _compute_cos_sin_cache(self) -> Any:
        rates = 10000.0 ** (-torch.arange(0, self.rotary_dim, 2).float() / self.rotary_dim)
        turns = torch.outer(torch.arange(4096).float(), rates)
        return torch.cat((turns.cos(), turns.sin()), dim=-1)


class SelfAttention(nn.Module):  # type: ignore[misc]
    def __init__(self, shape: Any) -> None:
        super().__init__()
        heads, keys, size = shape["heads"], shape["keys"], shape["size"]
        bias = shape.get("bias", False)
        self.qkv_proj = Linear(shape["width"], (heads + 2 * keys) * size, bias=bias)
        self.o_proj = Linear(heads * size, shape["width"], bias=bias)
        if shape.get("normed", True):
            self.q_norm, self.k_norm = Norm(size), Norm(size)
        self.rotary_emb = RotaryEmbedding(size)
        kind = AttentionType.DECODER if shape.get("causal", True) else AttentionType.ENCODER_ONLY
        self.attn = WholeTextAttention(heads, size, size**-0.5, keys, 0, attn_type=kind)


class SiluAndMul(nn.Module):  # type: ignore[misc]
    """Only its name is looked at."""


class Mlp(nn.Module):  # type: ignore[misc]
    def __init__(self, shape: Any) -> None:
        super().__init__()
        self.gate_up_proj = Linear(shape["width"], 2 * shape["between"], bias=False)
        self.down_proj = Linear(shape["between"], shape["width"], bias=False)
        self.act_fn = SiluAndMul()


class Layer(nn.Module):  # type: ignore[misc]
    def __init__(self, shape: Any) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape["width"])
        self.post_attention_layernorm = Norm(shape["width"])
        self.self_attn, self.mlp = SelfAttention(shape), Mlp(shape)


class Model(nn.Module):  # type: ignore[misc]
    """A decoder without its head; the same weights every time."""

    def __init__(self, layers: int = 3, words: int = 64, *, massive: bool = False, **shape: Any):
        super().__init__()
        torch.manual_seed(5)
        sizes = {"width": 64, "between": 128, "heads": 4, "keys": 2, "size": 32, **shape}
        self.embed_tokens = nn.Embedding(words, sizes["width"])
        self.layers = nn.ModuleList(Layer(sizes) for _ in range(layers))
        self.norm = Norm(sizes["width"])
        self.requires_grad_(requires_grad=False)
        if massive:
            self._grow()

    def _grow(self) -> None:
        """Give it the activations of a trained decoder."""
        for layer in self.layers:
            for norm in (layer.input_layernorm, layer.post_attention_layernorm):
                norm.weight[list(OUTLIERS)] *= 12
            layer.mlp.down_proj.weight[list(OUTLIERS)] *= 20
        # The first token's own direction opens one channel of the second layer, and only there.
        sink = self.layers[1].mlp
        direction = torch.randn(self.embed_tokens.weight.shape[1])
        self.embed_tokens.weight[FIRST] = 6 * direction
        between = sink.down_proj.weight.shape[1]
        sink.gate_up_proj.weight[7] = direction
        sink.gate_up_proj.weight[between + 7] = direction


def plain(model: Model, ids: Any, lengths: list[int]) -> Any:
    """The states of all tokens, [tokens, width], in float32 and by the book."""
    found = []
    for text in ids.split(lengths):
        stream = model.embed_tokens(text).float()
        for layer in model.layers:
            stream = stream + attended(layer.self_attn, layer.input_layernorm(stream))
            gate, up = layer.mlp.gate_up_proj(layer.post_attention_layernorm(stream)).chunk(2, -1)
            stream = stream + layer.mlp.down_proj(nn.functional.silu(gate) * up)
        found.append(model.norm(stream))
    return torch.cat(found)


def attended(module: SelfAttention, x: Any) -> Any:
    """One text's attention, [tokens, width] → the same."""
    attn, length = module.attn, len(x)
    heads, keys, size = attn.tp_q_head_num, attn.tp_k_head_num, attn.head_dim
    parts = module.qkv_proj(x).split([heads * size, keys * size, keys * size], dim=-1)
    query, key, value = (part.view(length, -1, size).transpose(0, 1) for part in parts)
    if hasattr(module, "q_norm"):
        query, key = module.q_norm(query), module.k_norm(key)
    cos, sin = module.rotary_emb._compute_cos_sin_cache()[:length].chunk(2, -1)
    query, key = (turned(part, cos, sin) for part in (query, key))
    key, value = (part.repeat_interleave(heads // keys, 0) for part in (key, value))
    scores = query @ key.transpose(1, 2) / math.sqrt(size)
    if attn.attn_type == AttentionType.DECODER:
        scores = scores + torch.full((length, length), -torch.inf).triu(1)
    out = torch.softmax(scores, dim=-1) @ value
    return module.o_proj(out.transpose(0, 1).reshape(length, -1))


def turned(x: Any, cos: Any, sin: Any) -> Any:
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


def decoded(
    lengths: list[int],
    dtype: str = "float32",
    *,
    engine_dtype: str = "float32",
    pooled: bool = True,
    weights: str = "float32",
    **shape: Any,
) -> Any:
    """A small decoder by the plugin's layers, over texts of these lengths.

    Args:
        lengths: of texts of random tokens, each beginning with token 1.
        dtype: float32, bfloat16, or int8 (in the format that `engine_dtype` names).
        pooled: whether only last tokens are computed to the end.
        weights: what float32's linear layers keep theirs in, if they can.
        shape: of decoder_model.Model; `odd` names a part that its first layer lacks.

    Returns:
        The last tokens' states as the plugin's layers compute them together (`ours`) and text by
        text (`alone`), and by the book in float32 (`plain`); elements of weights that stay in
        SGLang's own layers (`kept`).
    """
    odd = shape.pop("odd", None)
    model = Model(**shape)
    words = model.embed_tokens.weight.shape[0]
    ids = torch.randint(0, words, (sum(lengths),), generator=torch.Generator().manual_seed(4))
    ends = torch.tensor(lengths).cumsum(0) - 1
    ids[torch.tensor([0, *lengths[:-1]]).cumsum(0)] = FIRST
    right = plain(model, ids, lengths)[ends]
    if odd:
        setattr(model.layers[0].mlp, odd, None)
        delattr(model.layers[0].mlp, odd)
    os.environ["QLAUNCH_DTYPE"] = dtype
    os.environ["QLAUNCH_MODEL_PATH"] = "unused"
    os.environ["QLAUNCH_WEIGHTS"] = weights
    texts = [[FIRST, *(ids[at : at + 9].tolist())] for at in range(0, len(ids), 9)]
    int8.tokenized = lambda _path: texts
    served = model.to(getattr(torch, engine_dtype if dtype == "int8" else dtype))
    layers = decoder_layers.own_layers(served, pooled=pooled)
    if layers is None:
        return None
    # A checkpoint's names, in the order of a file that sorts them.
    names = [
        f"model.layers.{number}.mlp.weight" for number in (1, 0, *range(2, len(served.layers)))
    ]
    for _ in decoder_layers.by_layer(
        ((name, None) for name in [*names, "model.norm.weight"]), layers
    ):
        pass

    def states(of: Any, sizes: list[int]) -> Any:
        batch = SimpleNamespace(extend_seq_lens_cpu=sizes)
        found = layers(of, batch)
        return found if pooled else found[torch.tensor(sizes).cumsum(0) - 1]

    alone = torch.cat([states(text, [len(text)]) for text in ids.split(lengths)])
    linears = [each for each in served.modules() if isinstance(each, torch.nn.Linear)]
    return {
        "ours": states(ids, lengths).float().tolist(),
        "alone": alone.float().tolist(),
        "plain": right.tolist(),
        "kept": sum(each.weight.numel() for each in linears),
        "kind": type(layers).__name__,
    }
