"""Changes that the decoders' rows need."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

from tests.checkpoints.edit import Change, renamed, writing
from tests.checkpoints.head import Pooling, write_head
from tests.checkpoints.weights import write_json

SPLIT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's pre-tokenizer, as its published tokenizer.json has it."""


def head(*, pooling: Pooling = "last", normalize: bool = True, dense: int | None = None) -> Change:
    """Another pooling, Dense or normalisation for make_qwen3's 64 columns."""
    return lambda folder: write_head(
        folder, hidden=64, pooling=pooling, normalize=normalize, dense=dense
    )


renamed_bare: Final = renamed(lambda name: name.removeprefix("model."))
"""The bare class's names."""


def nested(folder: Path) -> None:
    """Put every setting under text_config, with `is_causal: false`."""
    found = json.loads((folder / "config.json").read_bytes())
    outer = {"architectures": found["architectures"], "model_type": found["model_type"]}
    write_json(folder / "config.json", outer | {"text_config": found | {"is_causal": False}})


def tokenizer(**changes: Any) -> Change:
    """Change keys of tokenizer.json."""

    def change(folder: Path) -> None:
        path = folder / "tokenizer.json"
        found = json.loads(path.read_bytes()) | changes
        path.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")

    return change


def post_processor(value: object) -> Change:
    """Another post-processor, or none."""
    return tokenizer(post_processor=value)


pre_tokenizer: Final = tokenizer(
    normalizer={"type": "NFC"},
    pre_tokenizer={
        "type": "Sequence",
        "pretokenizers": [
            {
                "type": "Split",
                "pattern": {"Regex": SPLIT},
                "behavior": "Isolated",
                "invert": False,
            },
            {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": False,
                "use_regex": False,
            },
        ],
    },
)
"""The normaliser and pre-tokenizer of Qwen's published tokenizers."""


def emptied(path: Path) -> Path:
    """A folder with a tokenizer and nothing else."""
    path.mkdir(parents=True)
    return path


def lora(folder: Path) -> None:
    """Add what peft saves of a LoRA adapter."""
    said = {"peft_type": "LORA", "base_model_name_or_path": "Qwen/Qwen3-Embedding-0.6B", "r": 8}
    writing("adapter_config.json", said)(folder)
    touched("adapter_model.safetensors")(folder)


def touched(*files: str) -> Change:
    """Add files with `{}` in them: their names are what counts."""

    def change(folder: Path) -> None:
        for file in files:
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_text("{}", encoding="utf-8")

    return change


def torch_file(name: str) -> Change:
    """A copy of model.safetensors under another name."""

    def change(folder: Path) -> None:
        shutil.copyfile(folder / "model.safetensors", folder / name)

    return change
