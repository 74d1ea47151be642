"""Stand-in: what SGLang 0.5.1's CPU branch imports from vllm; all but one are only names."""

from __future__ import annotations

from typing import Any

import torch


class SiluAndMul(torch.nn.Module):  # type: ignore[misc]  # torch is not here
    """SiLU of the first half times the second."""

    def forward(self, x: Any) -> Any:
        """[…, 2 × width] → […, width]."""
        first, second = x.chunk(2, dim=-1)
        return torch.nn.functional.silu(first) * second


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_args: object, **_kwargs: object) -> Any:
        raise NotImplementedError(f"vllm stand-in: {name} was called")

    return missing
