"""Stand-in: the names that SGLang 0.5.1's CPU branch imports from vllm; none may be called."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_args: object, **_kwargs: object) -> Any:
        raise NotImplementedError(f"vllm stand-in: {name} was called")

    return missing
