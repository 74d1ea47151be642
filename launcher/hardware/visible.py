"""Which GPUs CUDA shows a process under a given CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from launcher.hardware.inventory import Gpu, Hardware, MigDevice

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
_INTEGER = re.compile(r"([+-]?[0-9]{1,9})")
"""CUDA reads entries as C's strtoul does: the digits count, what follows them is ignored."""


def visible_gpus(gpus: Sequence[Gpu], value: str | None) -> tuple[Gpu, ...]:
    """The GPUs in the order CUDA would number them.

    Args:
        gpus: all cards of the machine, as NVML lists them.
        value: CUDA_VISIBLE_DEVICES; None is unset (all), empty or `-1` hides all.

    The list ends at its first entry that names no device, and one that names a device twice shows
    none (CUDA programming guide, environment variables; torch.cuda's own parser agrees). Cards may
    be named by index, by uuid or by the unique beginning of one. Indices are NVML's, in PCI order:
    the same as CUDA's under `CUDA_DEVICE_ORDER=PCI_BUS_ID`, or where all cards are of one model.

    MIG: a process gets one slice, the first it may see, and no whole card beside it; a card in MIG
    mode stands for its slices (MIG user guide, device enumeration).
    """
    if value is None:
        named = [choice for gpu in gpus for choice in _choices(gpu)]
    else:
        named = _named(gpus, value.strip())
    slices = [gpu for gpu in named if gpu.mig]
    return tuple(slices[:1] or named)


def usable_gpus(gpus: Sequence[Gpu], value: str | None) -> tuple[Gpu, ...]:
    """The GPUs that an engine may be given: all that are visible, and every slice where nobody
    chose one. CUDA would take the first; an engine is shown the one that was chosen for it."""
    if value is not None:
        return visible_gpus(gpus, value)
    return tuple(choice for gpu in gpus for choice in _choices(gpu))


def shown_by(hardware: Hardware, env: Mapping[str, str]) -> Hardware:
    """The machine as a program with these further variables sees it."""
    value = env.get(VISIBLE)
    if value is None or hardware.assumed or not hardware.gpus:
        return hardware
    gpus = visible_gpus(hardware.gpus, value)
    status = hardware.gpu_status
    if not gpus:
        status = f"{VISIBLE}={value!r} in the profile's env shows none of those of this machine"
    return msgspec.structs.replace(hardware, gpus=gpus, gpu_status=status)


def misread(gpus: Sequence[Gpu], value: str) -> str | None:
    """What a CUDA_VISIBLE_DEVICES says that its writer can hardly have meant, or None.

    Args:
        gpus: all cards of the machine.
        value: the variable's value; an empty one and `-1` hide all on purpose.
    """
    entries = [entry.strip() for entry in value.strip().split(",")]
    seen: set[str] = set()
    slices = 0
    for place, entry in enumerate(entries):
        chosen = _find(gpus, entry)
        if chosen is None:
            hides = entry in ("", "-1", "none", "NoDevFiles")
            if hides and (place == 0 or place == len(entries) - 1):
                return None
            rest = ", and CUDA ignores what follows it" if place < len(entries) - 1 else ""
            return f"its entry {entry!r} names no GPU of this machine{rest}"
        if chosen.uuid in seen:
            return f"it names {chosen.uuid} twice, and CUDA then shows no GPU at all"
        seen.add(chosen.uuid)
        slices += chosen.mig
    if slices and len(entries) > 1:
        return "it names a MIG slice and more, and CUDA shows a process one slice alone"
    return None


def _named(gpus: Sequence[Gpu], value: str) -> list[Gpu]:
    found: list[Gpu] = []
    seen: set[str] = set()
    for entry in value.split(","):
        chosen = _find(gpus, entry.strip())
        if chosen is None:
            break
        if chosen.uuid in seen:
            return []
        seen.add(chosen.uuid)
        found.append(chosen)
    return found


def _find(gpus: Sequence[Gpu], entry: str) -> Gpu | None:
    """The device that one entry names, None if it names none or more than one."""
    if entry.startswith(("GPU-", "MIG-")):
        matches = [
            choice
            for gpu in gpus
            for choice in (_choices(gpu) if entry.startswith("MIG-") else [gpu])
            if choice.uuid.startswith(entry)
        ]
        if len(matches) != 1:
            return None
        return next(iter(_choices(matches[0])), None) if matches[0].mig_devices else matches[0]
    number = _INTEGER.match(entry)
    if number is None:
        return None
    gpu = next((gpu for gpu in gpus if gpu.index == int(number[1])), None)
    return None if gpu is None else next(iter(_choices(gpu)), None)


def _choices(gpu: Gpu) -> list[Gpu]:
    """What CUDA can use of a card: itself, or its slices when it is in MIG mode."""
    if not gpu.mig or gpu.uuid.startswith("MIG-"):
        return [gpu]
    return [_slice(gpu, part) for part in gpu.mig_devices]


def _slice(card: Gpu, part: MigDevice) -> Gpu:
    return msgspec.structs.replace(
        card,
        uuid=part.uuid,
        name=part.name,
        memory_total_bytes=part.memory_total_bytes,
        memory_free_bytes=part.memory_free_bytes,
        mig_devices=(),
    )
