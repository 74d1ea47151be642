"""What half.py touches of a decoder, and the same layers as SGLang computes them; for inside.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

WIDTH, BETWEEN, LAYERS, HUGE = 64, 128, 4, 5


class Linear(nn.Linear):  # type: ignore[misc]
    tp_size = 1

    def forward(self, x: Any) -> Any:
        return super().forward(x), None


class Norm(nn.Module):  # type: ignore[misc]
    variance_epsilon = 1e-6

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(WIDTH) + 0.5)
        self.weight.data[HUGE] = 0.01  # trained norms take back what has grown

    def forward(self, x: Any) -> Any:
        """As SGLang's: read and computed in float32, given in the model's number format."""
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return (y * self.weight.float()).to(x.dtype)


class Mixing(nn.Module):  # type: ignore[misc]
    """In the place of attention: every token sees those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = Linear(WIDTH, WIDTH, bias=False)

    def forward(self, positions: Any, hidden_states: Any, forward_batch: Any) -> Any:
        assert forward_batch is None
        seen = hidden_states.float().cumsum(0) / (positions + 1)[:, None]
        return self.proj(seen.to(hidden_states.dtype))[0]


class Mlp(nn.Module):  # type: ignore[misc]
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.gate_up_proj = Linear(WIDTH, 2 * BETWEEN, bias=False)
        self.down_proj = Linear(BETWEEN, WIDTH, bias=False)
        # One channel grows with every layer, as in trained decoders: silu(x) * x is positive.
        self.gate_up_proj.weight.data[BETWEEN:] = self.gate_up_proj.weight.data[:BETWEEN]
        self.down_proj.weight.data[HUGE] = factor * (1 + torch.rand(BETWEEN)) / BETWEEN

    @staticmethod
    def act_fn(both: Any) -> Any:
        gate, up = both.chunk(2, dim=-1)
        return (nn.functional.silu(gate.float()) * up.float()).to(both.dtype)


class Layer(nn.Module):  # type: ignore[misc]
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = Norm(), Norm()
        self.self_attn, self.mlp = Mixing(), Mlp(factor)


class Model(nn.Module):  # type: ignore[misc]
    """Four layers of 64 columns with the same weights every time."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embed_tokens = nn.Embedding(32, WIDTH)
        self.layers = nn.ModuleList(Layer(factor) for _ in range(LAYERS))
        self.norm = Norm()
        self.requires_grad_(requires_grad=False)


def plain(model: Model, ids: Any, positions: Any) -> Any:
    """The states as SGLang's layers compute them: everything in the model's number format."""
    stream = model.embed_tokens(ids)
    for layer in model.layers:
        states = layer.self_attn(positions, layer.input_layernorm(stream), None)
        stream = stream + states
        both, _ = layer.mlp.gate_up_proj(layer.post_attention_layernorm(stream))
        stream = stream + layer.mlp.down_proj(layer.mlp.act_fn(both))[0]
    return model.norm(stream)
