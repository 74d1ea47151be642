"""One reading of the machine: CPU, memory, and the GPUs this process may use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.hardware.cpu import read_cpu
from launcher.hardware.inventory import Gpu, Hardware
from launcher.hardware.memory import read_memory
from launcher.hardware.nvml import TIMEOUT_S, Devices, Unavailable, open_nvml
from launcher.hardware.visible import VISIBLE, usable_gpus

if TYPE_CHECKING:
    from collections.abc import Mapping


def detect(
    environ: Mapping[str, str] = os.environ,
    *,
    root: Path = Path("/"),
    timeout_s: float = TIMEOUT_S,
) -> Hardware:
    """Read the machine; a few milliseconds without a GPU, at most twice `timeout_s` with.

    Args:
        environ: where CUDA_VISIBLE_DEVICES and what hides instruction sets is looked up.
        root: where `/` is, for CPU and memory; fixture trees in tests.
        timeout_s: how long the NVIDIA driver may take for each of two questions.

    `gpus` holds what CUDA would show a process started now, and every MIG slice that it can be told
    to show. `gpu_status` is `ok` when every card of
    the machine could be read and at least one is visible; otherwise it says why not, and `gpus` may
    still hold the cards that could be read. Never raises.
    """
    devices = _devices(timeout_s)
    if isinstance(devices, Unavailable):
        gpus: tuple[Gpu, ...] = ()
        status, driver, cuda = devices.reason, None, None
    else:
        gpus = usable_gpus(devices.gpus, environ.get(VISIBLE))
        status = _status(devices, gpus, environ.get(VISIBLE))
        driver, cuda = devices.driver_version, devices.cuda_driver_version
    return Hardware(
        cpu=read_cpu(root, environ=environ),
        memory=read_memory(root),
        gpus=gpus,
        gpu_status=status,
        driver_version=driver,
        cuda_driver_version=cuda,
    )


def _devices(timeout_s: float) -> Devices | Unavailable:
    nvml = open_nvml(timeout_s=timeout_s)
    if isinstance(nvml, Unavailable):
        return nvml
    try:
        return nvml.devices()
    finally:
        nvml.close()


def _status(devices: Devices, visible: tuple[Gpu, ...], value: str | None) -> str:
    if devices.problems:
        return "; ".join(devices.problems)
    if visible:
        return "ok"
    if not devices.gpus:
        return "the NVIDIA driver lists no GPU"
    if value is not None:
        return f"{VISIBLE}={value!r} hides all {len(devices.gpus)} GPUs of this machine"
    return "every GPU is in MIG mode, and none has a slice that can be used"
