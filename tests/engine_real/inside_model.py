"""What packed.py and int8.py touch of a BertModel; for inside.py, in the engine's Python."""

from __future__ import annotations

from typing import Any

import torch
from qlaunch_sglang import attention
from torch import nn


def linear(columns: int, rows: int) -> Any:
    made = nn.Linear(columns, rows).to(torch.bfloat16)
    made.forward = lambda x: (nn.functional.linear(x, made.weight, made.bias), None)
    return made


class Block(nn.Module):  # type: ignore[misc]
    def __init__(self, columns: int) -> None:
        super().__init__()
        self.dense = linear(columns, 32)
        self.LayerNorm = nn.LayerNorm(32).to(torch.bfloat16)

    def forward(self, x: Any, added: Any) -> Any:
        return self.LayerNorm(self.dense(x)[0] + added)


class Between(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.dense = linear(32, 128)
        self.dense.bias.data[5] += 40  # what MiniLM's channels do

        self.intermediate_act_fn = nn.functional.gelu

    def forward(self, x: Any) -> Any:
        return self.intermediate_act_fn(self.dense(x)[0])


class Self(nn.Module):  # type: ignore[misc]
    def __init__(self, *, whole: bool) -> None:
        super().__init__()
        self.qkv_proj = linear(32, 96)
        both_ways = attention.AttentionType.ENCODER_ONLY
        made = attention.WholeTextAttention(4, 8, 8**-0.5, 4, 0, attn_type=both_ways)
        self.attn = made if whole else None

    def forward(self, x: Any, batch: Any) -> Any:
        q, k, v = self.qkv_proj(x)[0].split(32, dim=-1)
        return v if self.attn is None else self.attn(q, k, v, batch)


class Attention(nn.Module):  # type: ignore[misc]
    def __init__(self, *, whole: bool) -> None:
        super().__init__()
        self.self_attn, self.output = Self(whole=whole), Block(32)


class Layer(nn.Module):  # type: ignore[misc]
    def __init__(self, *, whole: bool) -> None:
        super().__init__()
        self.attention = Attention(whole=whole)
        self.intermediate, self.output = Between(), Block(128)

    def forward(self, x: Any, batch: Any) -> Any:
        x = self.attention.output(self.attention.self_attn(x, batch), x)
        return self.output(self.intermediate(x), x)


class Encoder(nn.Module):  # type: ignore[misc]
    def __init__(self, *, whole: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(whole=whole) for _ in range(2))

    def forward(self, hidden_states: Any, forward_batch: Any) -> Any:
        for layer in self.layer:
            hidden_states = layer(hidden_states, forward_batch)
        return hidden_states


class Model(nn.Module):  # type: ignore[misc]
    """Two layers of 32 columns, one of whose feed-forward channels is huge, as MiniLM's are.

    `whole` gives them the plugin's attention.
    """

    def __init__(self, *, whole: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 32).to(torch.bfloat16)
        self.encoder = Encoder(whole=whole)

    def forward(self, ids: Any, _: Any, batch: Any, *, get_embedding: bool) -> Any:
        assert get_embedding
        return self.encoder(self.words(ids), forward_batch=batch)
