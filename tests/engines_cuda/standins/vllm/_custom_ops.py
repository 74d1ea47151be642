"""Stand-in: what SGLang 0.5.1's CPU branch imports from vllm; all but one are only names."""

from __future__ import annotations

from typing import Any

import torch


def rotary_embedding(
    positions: Any, query: Any, key: Any, head_size: int, cos_sin_cache: Any, is_neox: bool
) -> None:
    """Turn queries and keys in place: [tokens, heads × head size], halves against each other."""
    if not is_neox:
        raise NotImplementedError("vllm stand-in: neighbours are not turned against each other")
    cos, sin = (x.unsqueeze(1) for x in cos_sin_cache[positions].float().chunk(2, dim=-1))
    for x in (query, key):
        heads = x.view(len(x), -1, head_size)
        turned = heads[..., : 2 * cos.shape[-1]]
        low, high = turned.float().chunk(2, dim=-1)
        turned.copy_(torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1))


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_args: object, **_kwargs: object) -> Any:
        raise NotImplementedError(f"vllm stand-in: {name} was called")

    return missing
