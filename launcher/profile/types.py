"""The schema of a profile: the YAML a user writes, one Struct a section."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

FlagValue = bool | int | float | str | list[str]
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class HardwareNeed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the profile needs to run at all."""

    device: Literal["cpu", "cuda"]
    gpus: list[str] = []
    """Names of cards it is written for, as people say them (T4, A10G); for humans and `list`."""
    min_compute_capability: str | None = None
    max_compute_capability: str | None = None
    min_gpu_memory: str | None = None
    """Such as `4GiB`."""
    min_ram: str | None = None


class Restart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the supervisor starts the engine again. Seconds."""

    max_attempts: Annotated[int, msgspec.Meta(ge=0, le=100)] = 5
    backoff_initial_s: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    backoff_max_s: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    stable_after_s: Annotated[float, msgspec.Meta(gt=0)] = 300.0


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A deployment: which hardware, which engine release, which model, which knobs."""

    title: str
    description: str = ""
    hardware: HardwareNeed
    engine: Name
    """Name of an engine release."""
    model: str
    """Name of a model card, or a source (`hf:…`, `package:…`, `modelscope:…`, a folder)."""
    dtype: Dtype = "auto"
    """auto on a CPU: bfloat16 where the CPU computes it, else float32."""
    threads: Positive | Literal["auto"] = "auto"
    """Compute threads on a CPU; auto: what affinity and the cgroup quota leave."""
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 30000
    """0 takes a free port."""
    flags: dict[str, FlagValue] = {}
    """Engine options by their own long names without dashes; true passes a bare switch."""
    env: dict[str, str] = {}
    start_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 600.0
    restart: Restart = Restart()
    measured: bool = True
    """False until a run record proves it: shown by `profiles show` and in the docs."""
