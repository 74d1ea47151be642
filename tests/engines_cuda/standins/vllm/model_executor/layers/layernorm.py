"""Stand-in: what SGLang 0.5.1's CPU branch imports from vllm; all but one are only names."""

from __future__ import annotations

from typing import Any

import torch


class RMSNorm(torch.nn.Module):  # type: ignore[misc]  # torch is not here
    """`x / √(mean x² + eps)` times a weight, after the sum with a residual where there is one."""

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, x: Any, residual: Any = None) -> Any:
        """[…, hidden size] → the same, and the sum where a residual was given."""
        stream = x.float() if residual is None else x.float() + residual.float()
        scale = torch.rsqrt(stream.square().mean(-1, keepdim=True) + self.variance_epsilon)
        found = (stream * scale).to(x.dtype) * self.weight
        return found if residual is None else (found, stream.to(x.dtype))


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_args: object, **_kwargs: object) -> Any:
        raise NotImplementedError(f"vllm stand-in: {name} was called")

    return missing
