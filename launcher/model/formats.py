"""Folders that hold something else than a whole model in safetensors: told apart by their files.

What people point a server at besides a checkpoint: adapters, pipelines for images, exports for
other runtimes, what a training leaves. Each is refused in one sentence that says what it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.errors import QlaunchError
from launcher.model.files import broken, read_json_object, visible

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ADAPTER = "adapter_config.json"
_SINGLE = "model.safetensors"
_WHOLE = ("model*.safetensors", "pytorch_model*.bin")
_CONVERT = "serve the model in its safetensors form (a Hugging Face folder with config.json)"
_OTHERS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("*.gguf", "gguf/*.gguf"),
        "holds a model for llama.cpp (GGUF) and no safetensors",
        _CONVERT,
    ),
    (
        ("openvino_model.xml", "openvino/*.xml"),
        "holds a model for OpenVINO and no safetensors",
        _CONVERT,
    ),
    (
        ("*.onnx", "onnx/*.onnx"),
        "holds a model for ONNX Runtime and no safetensors",
        _CONVERT,
    ),
    (
        ("zero_to_fp32.py", "global_step*", "*_optim_states.pt"),
        "is a training checkpoint in DeepSpeed's shards",
        "join them first: python zero_to_fp32.py . OUTPUT --safe_serialization",
    ),
    (
        ("*.distcp", "pytorch_model_fsdp*", "*/*.distcp"),
        "is a training checkpoint in PyTorch's shards (FSDP)",
        "join them first: accelerate merge-weights FOLDER OUTPUT",
    ),
    (
        ("consolidated*.safetensors", "consolidated*.pth", "params.json"),
        "holds its weights in the original format of Llama or Mistral (consolidated, params.json)",
        _CONVERT,
    ),
    (
        ("tf_model.h5", "*.tflite", "saved_model.pb", "model.ckpt*", "*/saved_model.pb"),
        "holds a model for TensorFlow and no safetensors",
        _CONVERT,
    ),
    (
        ("flax_model*.msgpack",),
        "holds a model for Flax and no safetensors",
        _CONVERT,
    ),
    (
        ("trainer_state.json", "optimizer.pt", "scheduler.pt"),
        "is a training checkpoint without the model's own weights",
        "save the model (save_pretrained), and serve that folder",
    ),
)
"""Files, what a folder with one of them and no whole model is, and what to do."""


def check_format(folder: Path) -> None:
    """Refuse a folder that is no whole model.

    Raises:
        QlaunchError: `model_unsupported`, exit 2.
    """
    if (folder / ADAPTER).exists():
        raise _adapter(folder)
    if (folder / "model_index.json").exists():
        raise _other(folder, "is a diffusers pipeline, which makes images", "serve a text model")
    if _any(folder, _WHOLE):
        _check_strays(folder)
        return
    for patterns, what, fix in _OTHERS:
        if _any(folder, patterns):
            raise _other(folder, what, fix)


def _adapter(folder: Path) -> QlaunchError:
    """Beside a whole model too: whether it belongs to the vectors nobody can say."""
    config = read_json_object(folder / ADAPTER)
    kind = _word(config, "peft_type")
    base = _word(config, "base_model_name_or_path") or _word(config, "model_name")
    of = f" of {base}" if base else ""
    whole = (folder / "config.json").exists() and _any(folder, _WHOLE)
    if kind.upper() in ("", "LORA", "ADALORA", "DORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT"):
        name = {"": "an adapter", "LORA": "a LoRA adapter"}.get(kind.upper(), f"a {kind} adapter")
        if whole:
            why = f"has {name}{of} beside a whole model: merge it first, or move {ADAPTER} away"
        else:
            why = f"is {name}{of}: merge it first"
        fix = "load it with peft, merge_and_unload(), save_pretrained(FOLDER), and serve FOLDER"
        return _other(folder, why, fix)
    why = f"is a {kind} adapter{of}, which learns a prompt that cannot be merged into a model"
    return _other(folder, why, "serve a whole model, or one with a merged LoRA adapter")


def _word(config: dict[str, Any], key: str) -> str:
    said = config.get(key)
    return said[:120] if isinstance(said, str) else ""


def _check_strays(folder: Path) -> None:
    """The engine reads every *.safetensors that no index leaves out."""
    if not (folder / _SINGLE).exists():
        return
    if (folder / "model.safetensors.index.json").exists():
        return
    others = [each for each in visible(folder, "*.safetensors") if each.name != _SINGLE]
    if others:
        why = f"holds {others[0].name} beside model.safetensors, and the engine would read both"
        raise _other(folder, why, f"move {others[0].name} to another folder")


def _any(folder: Path, patterns: Iterable[str]) -> bool:
    return any(visible(folder, pattern) for pattern in patterns)


def _other(folder: Path, why: str, fix: str) -> QlaunchError:
    return broken(folder, why, code="model_unsupported", fix=fix)
