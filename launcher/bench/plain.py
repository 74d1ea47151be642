"""The command every tutorial prints, with only what it needs to start at all. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

NAME = "plain"
"""Of the mode, in comparisons."""
NEEDED = (
    "PYTHONPATH",
    "SGLANG_USE_CPU_ENGINE",
    "CUDA_VISIBLE_DEVICES",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
)
"""Of a plan's variables: stand-ins for what has no CPU build, the CPU engine, nothing fetched."""


def plain_argv(start: Sequence[str], model: str, port: int, device: str = "cpu") -> list[str]:
    """`sglang serve --model-path … --is-embedding`; `--device cpu` where there is no GPU."""
    needs = ["--device", "cpu"] if device == "cpu" else []
    return [*start, "--model-path", model, "--is-embedding", *needs, "--port", str(port)]


def plain_environment(planned: Mapping[str, str]) -> dict[str, str]:
    """What the command needs of the variables of a plan that was made without the plugin."""
    return {name: value for name, value in planned.items() if name in NEEDED}
