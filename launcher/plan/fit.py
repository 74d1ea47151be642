"""Whether a profile and its plan fit a machine, and the one knob that would make them fit. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from launcher.config.profile import HardwareNeed
from launcher.config.size import parse_size
from launcher.documents.plan import MemoryPrediction
from launcher.engine.release import Release
from launcher.hardware.capability import capability, dots, is_older
from launcher.hardware.inventory import Gpu, Hardware
from launcher.model.checkpoint import Checkpoint
from launcher.model.shape import DTYPE_BYTES
from launcher.plan.memory import (
    SLACK,
    Knobs,
    activation_bytes,
    kv_bytes_per_token,
)
from launcher.units import size

_DEVICE: Final = {"cpu": "the CPU, and it needs a GPU", "cuda": "a GPU, and it needs the CPU"}


def why_not_on(need: HardwareNeed, release: Release, hardware: Hardware) -> str | None:
    """Why a profile that needs `need` cannot run on `hardware`, or None. Looks at no model."""
    if release.device != need.device:
        return f"engine {release.name} computes on {_DEVICE[release.device]}"
    if hardware.cpu.machine not in release.machine:
        return (
            f"engine {release.name} has no build for {hardware.cpu.machine} processors "
            f"(only {', '.join(release.machine)})"
        )
    if need.min_ram and hardware.memory.usable_bytes < parse_size(need.min_ram):
        return (
            f"it needs {size(parse_size(need.min_ram))} of RAM; this machine may use "
            f"{size(hardware.memory.usable_bytes)}"
        )
    if need.device == "cpu":
        return None
    if not hardware.gpus:
        return f"it needs an NVIDIA GPU, and none can be used here ({hardware.gpu_status})"
    reasons = [_why_not_gpu(need, release, gpu) for gpu in hardware.gpus]
    if None not in reasons:
        return reasons[0]
    return driver_too_old(release, hardware)


def card_for(need: HardwareNeed, release: Release, hardware: Hardware) -> Gpu | None:
    """Of the cards that suit, the one with most memory free; None for a profile on the CPU."""
    if need.device == "cpu":
        return None
    suiting = [gpu for gpu in hardware.gpus if _why_not_gpu(need, release, gpu) is None]
    return max(suiting, key=free_bytes, default=None)


def free_bytes(gpu: Gpu) -> int:
    """Memory of a card that a new process can take; all of it where nobody could say."""
    return gpu.memory_total_bytes if gpu.memory_free_bytes is None else gpu.memory_free_bytes


def least_free(hardware: Hardware) -> int:
    """What is free on the fullest of the cards that an engine computes on; 0 without a card."""
    return min(map(free_bytes, hardware.gpus), default=0)


def driver_too_old(release: Release, hardware: Hardware) -> str | None:
    """Why the machine's NVIDIA driver does not run `release`, or None."""
    have, need = hardware.driver_version, release.min_driver
    if not is_older(have, need):
        return None
    return (
        f"engine {release.name} (SGLang {release.version}) needs NVIDIA driver {need} or newer,"
        f" this is {have}"
    )


def limits_meet(need: HardwareNeed, release: Release) -> bool:
    """Whether any compute capability is within the limits of both."""
    low, high = _limits(need, release)
    return low is None or high is None or low <= high


def in_range(have: tuple[int, int], of: Release | HardwareNeed) -> bool:
    """Whether a compute capability is one that a release has kernels for, or a profile is for."""
    low = capability(of.min_compute_capability)
    high = capability(of.max_compute_capability)
    return (low is None or have >= low) and (high is None or have <= high)


def made_for(need: HardwareNeed, gpus: Iterable[Gpu]) -> bool:
    """Whether a profile is for one of these cards, however large and free they are."""
    return need.device == "cuda" and any(in_range(gpu.compute_capability, need) for gpu in gpus)


@dataclass(frozen=True)
class Misfit:
    """Why a plan does not fit a machine's memory."""

    reason: str
    remedy: str | None
    """The engine option that would make it fit, with its effect; None where none would."""

    @property
    def sentences(self) -> tuple[str, ...]:
        """Both for people."""
        return (self.reason,) if self.remedy is None else (self.reason, self.remedy)


def why_not_memory(
    predicted: MemoryPrediction,
    hardware: Hardware,
    checkpoint: Checkpoint,
    sizes: Knobs,
    dtype: str,
    *,
    share: float | None = None,
) -> Misfit | None:
    """Why the predicted memory is not there; None where it fits.

    Args:
        share: the value of `--mem-fraction-static`, None without it.
    """
    reason = lacking(predicted, hardware)
    if reason is None:
        return _small_share(predicted, hardware, sizes, share)
    used, have, _ = _account(predicted, hardware)
    smaller = _smaller_batch if sizes.no_kv else _smaller_kv
    return Misfit(reason, smaller(checkpoint, sizes, dtype, spare=have / SLACK - used))


def lacking(predicted: MemoryPrediction, hardware: Hardware) -> str | None:
    """What is missing of the predicted memory, in a sentence; None where it is there."""
    return _lacks(*_account(predicted, hardware))


def _account(predicted: MemoryPrediction, hardware: Hardware) -> tuple[int, int, str]:
    """Bytes that are needed and that are free, and of what."""
    if predicted.gpu_bytes is not None:
        needed = predicted.gpu_full_bytes or predicted.gpu_bytes
        return needed, least_free(hardware), "GPU memory"
    used = predicted.ram_full_bytes or predicted.ram_bytes or 0
    return used, hardware.memory.available_bytes, "RAM"


def _small_share(
    predicted: MemoryPrediction,
    hardware: Hardware,
    sizes: Knobs,
    share: float | None,
) -> Misfit | None:
    """Why SGLang would end its start, or let the longest text wait for ever, with this share: of
    what is free before the weights are loaded, it is for them and the cache."""
    on_gpu = predicted.gpu_bytes is not None
    # On a CPU it is of what the machine has free, whatever a control group leaves of that.
    if share is None or not (on_gpu or hardware.memory.limit_bytes is None):
        return None
    by_name = {t.name: t.bytes for t in predicted.terms if (t.device == "gpu") is on_gpu}
    weights, cache = by_name.get("weights", 0), by_name.get("KV cache", 0)
    free = least_free(hardware) if on_gpu else hardware.memory.available_bytes
    before = free - by_name.get("CUDA context", 0)
    longest = cache * sizes.context // sizes.kv_tokens if sizes.kv_tokens else 0
    needed = weights + min(cache, longest)
    if before * share > needed:
        return None
    enough = -(-(weights + cache) * 100 // before) / 100 if before > 0 else 1.0
    return Misfit(
        f"--mem-fraction-static {share}: weights and cache may take {size(int(before * share))} of"
        f" {'GPU memory' if on_gpu else 'RAM'}, and {size(needed)} is the least they need",
        f"--mem-fraction-static {enough} would fit" if enough < 1 else None,
    )


def _lacks(need: int, have: int, what: str) -> str | None:
    if need * SLACK <= have:
        return None
    beside = f"; {SLACK - 1:.0%} of it must be left beside it" if need <= have else ""
    return f"it is predicted to take {size(need)} of {what}, and {size(have)} are free{beside}"


def _smaller_kv(checkpoint: Checkpoint, sizes: Knobs, dtype: str, *, spare: float) -> str | None:
    per_token = kv_bytes_per_token(checkpoint, DTYPE_BYTES.get(dtype, 2))
    tokens = sizes.kv_tokens or 0
    fitting = tokens + int(spare // per_token)
    # Round down to whole pages of 1024 tokens: a figure people can read.
    fitting -= fitting % 1024
    if fitting < min(1024, checkpoint.context_length):
        return None
    saved = (tokens - fitting) * per_token
    return f"--max-total-tokens {fitting} would fit (saves {size(saved)} of KV cache)"


def _smaller_batch(checkpoint: Checkpoint, sizes: Knobs, dtype: str, *, spare: float) -> str | None:
    per_token = activation_bytes(checkpoint, DTYPE_BYTES.get(dtype, 2))
    tokens = sizes.prefill_tokens + int(spare // per_token)
    tokens -= tokens % 512
    # With chunking off a text of the whole context is computed in one piece, whatever the limit.
    if tokens < max(512, sizes.context):
        return None
    saved = (sizes.prefill_tokens - tokens) * per_token
    return f"--max-prefill-tokens {tokens} would fit (saves {size(saved)} of the largest batch)"


def _why_not_gpu(need: HardwareNeed, release: Release, gpu: Gpu) -> str | None:
    low, high = _limits(need, release)
    have = gpu.compute_capability
    if low and have < low:
        return f"{gpu.name} has compute capability {dots(have)}, it needs {dots(low)} or newer"
    if high and have > high:
        return f"{gpu.name} has compute capability {dots(have)}, it runs up to {dots(high)}"
    if need.min_gpu_memory and gpu.memory_total_bytes < 0.94 * parse_size(need.min_gpu_memory):
        # A card sold as 4 GB shows a little less: the driver keeps some for itself.
        needs = size(parse_size(need.min_gpu_memory))
        return f"{gpu.name} has {size(gpu.memory_total_bytes)}, it needs {needs}"
    return None


def _limits(
    need: HardwareNeed, release: Release
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    lows = [capability(t) for t in (need.min_compute_capability, release.min_compute_capability)]
    highs = [capability(t) for t in (need.max_compute_capability, release.max_compute_capability)]
    return (
        max((low for low in lows if low), default=None),
        min((high for high in highs if high), default=None),
    )
