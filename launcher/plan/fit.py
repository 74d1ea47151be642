"""Whether a profile and its plan fit a machine, and the one knob that would make them fit. Pure."""

from __future__ import annotations

from typing import Final

from launcher.engine.types import Release
from launcher.errors import ExitCode, QlaunchError
from launcher.hardware.types import Gpu, Hardware
from launcher.model.types import Checkpoint
from launcher.plan.memory import DTYPE_BYTES, SLACK, Knobs, kv_bytes_per_token
from launcher.plan.types import MemoryPrediction
from launcher.profile.size import parse_size
from launcher.profile.types import HardwareNeed

GIB: Final = 1 << 30


def why_not_on(need: HardwareNeed, release: Release, hardware: Hardware) -> str | None:
    """Why a profile that needs `need` cannot run on `hardware`, or None. Looks at no model."""
    if hardware.cpu.machine not in release.machine:
        return (
            f"engine {release.name} has no build for {hardware.cpu.machine} processors "
            f"(only {', '.join(release.machine)})"
        )
    if need.min_ram and hardware.memory.usable_bytes < parse_size(need.min_ram):
        return (
            f"it needs {need.min_ram} of RAM; this machine may use "
            f"{_gib(hardware.memory.usable_bytes)}"
        )
    if need.device == "cpu":
        return None
    if not hardware.gpus:
        return f"it needs an NVIDIA GPU, and none can be used here ({hardware.gpu_status})"
    reasons = [_why_not_gpu(need, release, gpu) for gpu in hardware.gpus]
    return None if None in reasons else reasons[0]


def require_hardware(
    profile: str,
    need: HardwareNeed,
    release: Release,
    hardware: Hardware,
    alternatives: tuple[str, ...],
) -> None:
    """Refuse a profile that cannot run on this machine at all, before anything is fetched.

    Raises:
        QlaunchError: `does_not_fit` (exit 4), naming what would run here.
    """
    reason = why_not_on(need, release, hardware)
    if reason is None:
        return
    raise QlaunchError(
        f"profile {profile} cannot run on this machine: {reason}",
        code="does_not_fit",
        exit_code=ExitCode.DOES_NOT_FIT,
        fix=f"what runs here: {', '.join(alternatives)}" if alternatives else None,
    )


def why_not_memory(
    predicted: MemoryPrediction,
    hardware: Hardware,
    checkpoint: Checkpoint,
    sizes: Knobs,
    dtype: str,
) -> tuple[str, str | None] | None:
    """Why the predicted memory is not there, with the knob that would help; None where it fits."""
    if predicted.gpu_bytes is not None:
        have = max((g.memory_free_bytes or g.memory_total_bytes for g in hardware.gpus), default=0)
        lacking = _lacks(predicted.gpu_bytes, have, "GPU memory")
        used = predicted.gpu_bytes
    else:
        assert predicted.ram_bytes is not None
        have = hardware.memory.available_bytes
        lacking = _lacks(predicted.ram_bytes, have, "RAM")
        used = predicted.ram_bytes
    if lacking is None:
        return None
    return lacking, _smaller_kv(checkpoint, sizes, dtype, spare=have / SLACK - used)


def _lacks(need: int, have: int, what: str) -> str | None:
    if need * SLACK <= have:
        return None
    return f"it is predicted to take {_gib(need)} of {what}, and {_gib(have)} are free"


def _smaller_kv(checkpoint: Checkpoint, sizes: Knobs, dtype: str, *, spare: float) -> str | None:
    per_token = kv_bytes_per_token(checkpoint, DTYPE_BYTES.get(dtype, 2))
    tokens = sizes.kv_tokens or 0
    fitting = tokens + int(spare // per_token)
    # Round down to whole pages of 1024 tokens: a figure people can read.
    fitting -= fitting % 1024
    if fitting < min(1024, checkpoint.context_length):
        return None
    saved = (tokens - fitting) * per_token
    return f"--max-total-tokens {fitting} would fit (saves {_gib(saved)} of KV cache)"


def _why_not_gpu(need: HardwareNeed, release: Release, gpu: Gpu) -> str | None:
    low, high = _limits(need, release)
    have = gpu.compute_capability
    if low and have < low:
        return f"{gpu.name} has compute capability {_dots(have)}, it needs {_dots(low)} or newer"
    if high and have > high:
        return f"{gpu.name} has compute capability {_dots(have)}, it runs up to {_dots(high)}"
    if need.min_gpu_memory and gpu.memory_total_bytes < 0.94 * parse_size(need.min_gpu_memory):
        # A card sold as 4 GB shows a little less: the driver keeps some for itself.
        return f"{gpu.name} has {_gib(gpu.memory_total_bytes)}, it needs {need.min_gpu_memory}"
    return None


def _limits(
    need: HardwareNeed, release: Release
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    lows = [_capability(t) for t in (need.min_compute_capability, release.min_compute_capability)]
    highs = [_capability(t) for t in (need.max_compute_capability, release.max_compute_capability)]
    return (
        max((low for low in lows if low), default=None),
        min((high for high in highs if high), default=None),
    )


def _capability(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


def _dots(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
