"""Decoders, adapters and prompts of the matrix."""

from __future__ import annotations

from tests.checkpoints import make_qwen3
from tests.checkpoints.matrix import Row, Section

_FAMILIES = (
    Row(
        name="qwen3",
        what="Qwen3-Embedding as published: `Qwen3ForCausalLM`, last token, Normalize",
        source="Qwen/Qwen3-Embedding-0.6B",
        make=make_qwen3,
    ),
)

SECTIONS = (Section("Decoders", "cpu-qwen3-0.6b", _FAMILIES),)
