"""Inputs of a plan, built by hand: nothing is read from a disk or a machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.config.profile import HardwareNeed, Profile
from launcher.config.settings import Resolved
from launcher.hardware.inventory import Hardware
from launcher.model.checkpoint import Checkpoint, ModelCard
from launcher.plan.inputs import Inputs
from tests.samples import engine, machine


def checkpoint(**changes: Any) -> Checkpoint:
    """all-MiniLM-L6-v2's shape, by default."""
    values: dict[str, Any] = {
        "path": Path("/models/minilm"),
        "architectures": ("BertModel",),
        "model_type": "bert",
        "hidden_size": 384,
        "num_layers": 6,
        "num_attention_heads": 12,
        "num_kv_heads": 12,
        "head_dim": 32,
        "intermediate_size": 1536,
        "vocab_size": 30522,
        "context_length": 512,
        "stored_dtype": "float32",
        "parameters": 22_713_728,
        "weight_bytes": 90_854_912,
        "weight_files": ("model.safetensors",),
        "pooling": "mean",
        "pooling_source": "1_Pooling/config.json",
        "normalize": True,
        "normalize_source": "modules.json lists Normalize",
        "dimensions": 384,
        "encoder": True,
        "fingerprint": "f",
    }
    return Checkpoint(**{**values, **changes})


def qwen3(**changes: Any) -> Checkpoint:
    """Qwen3-Embedding-0.6B's shape."""
    values: dict[str, Any] = {
        "path": Path("/models/qwen3"),
        "architectures": ("Qwen3ForCausalLM",),
        "model_type": "qwen3",
        "hidden_size": 1024,
        "num_layers": 28,
        "num_attention_heads": 16,
        "num_kv_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
        "vocab_size": 151_669,
        "context_length": 32_768,
        "stored_dtype": "bfloat16",
        "parameters": 595_776_512,
        "weight_bytes": 1_191_553_024,
        "pooling": "last",
        "dimensions": 1024,
        "encoder": False,
    }
    return checkpoint(**{**values, **changes})


def settings(**changes: Any) -> Resolved:
    """The settings of a bare profile on a CPU."""
    values: dict[str, Any] = {
        "name": "svc",
        "model": "m",
        "engine": "cpu",
        "engine_python": None,
        "host": "127.0.0.1",
        "port": 30000,
        "dtype": "auto",
        "threads": "auto",
        "start_timeout_s": 600.0,
        "plugin": True,
        "start_method": "auto",
        "api_key_file": None,
        "allow_unauthenticated": False,
        "offline": False,
        "flags": {},
        "sources": {},
    }
    return Resolved(**{**values, **changes})


def inputs(
    *,
    hardware: Hardware | None = None,
    model: Checkpoint | None = None,
    release: str = "cpu",
    extra: tuple[str, ...] = (),
    env: Mapping[str, str] | None = None,
    card: ModelCard | None = None,
    **changes: Any,
) -> Inputs:
    """Inputs of a plan; `changes` are settings."""
    profile = Profile(
        title="t", hardware=HardwareNeed(device="cpu"), engine="cpu", model="m", env=dict(env or {})
    )
    return Inputs(
        settings=settings(engine=release, **changes),
        profile_name="p",
        profile=profile,
        hardware=hardware or machine(),
        engine=engine(release, Path(f"/engines/{release}")),
        checkpoint=model or checkpoint(),
        card=card,
        extra=extra,
        parity_min=lambda dtype: {"float32": 0.9999, "bfloat16": 0.999}.get(dtype, 0.99),
        reference_cache="/cache",
    )
