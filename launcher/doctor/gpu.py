"""What `qlaunch doctor` says of the NVIDIA driver and each GPU."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from launcher.doctor.runner import Finding, ok, problem, unavailable, warning
from launcher.engine.environments.stub_driver import LIBRARY
from launcher.hardware.inventory import Gpu, GpuProcess
from launcher.hardware.nvml import NO_DRIVER, Devices, Unavailable, open_nvml, remedy
from launcher.hardware.visible import VISIBLE, misread, visible_gpus
from launcher.linux.procfs import foreign_pid_namespace
from launcher.linux.pseudofiles import read_text
from launcher.units import GIB, size

LIMIT_S: Final = 10.0
"""For all questions to the driver: initialising eight cards without the persistence daemon takes
seconds."""
_FIX_NO_LIBRARY: Final = (
    "in a container: NVIDIA_DRIVER_CAPABILITIES=compute,utility; elsewhere install the driver's "
    "part for computing (libcuda: nvidia-driver-cuda-libs, libnvidia-compute-…)"
)
FIX_IF_CUT: Final = "see `dmesg` for NVRM and Xid lines; reset the card or reboot"

LITTLE: Final = 4 * GIB
"""Below this a 16-bit 0.6B model with its KV cache does not fit (the seed article's threshold)."""

_NVIDIA: Final = "0x10de"
_DISPLAY: Final = "0x03"
"""PCI vendor id, and the class of display controllers (VGA, 3D) as /sys writes them."""

Users = Mapping[str, Iterable[GpuProcess]]


def read(timeout_s: float = LIMIT_S) -> tuple[Devices | Unavailable, Users | Unavailable]:
    """The cards, and who computes on them; together within about `timeout_s`."""
    nvml = open_nvml(timeout_s=timeout_s * 0.6)
    if isinstance(nvml, Unavailable):
        return nvml, nvml
    devices = nvml.devices()
    return devices, devices if isinstance(devices, Unavailable) else nvml.users()


def gpu_findings(
    devices: Devices | Unavailable,
    users: Users | Unavailable,
    environ: Mapping[str, str] = os.environ,
    *,
    root: Path = Path("/"),
    computes: bool = True,
) -> Iterator[Finding]:
    """The driver, every card, and CUDA_VISIBLE_DEVICES.

    `computes`: whether the driver's library for programs loads, beside the one that lists cards.
    """
    if isinstance(devices, Unavailable):
        yield _no_driver(devices.reason, root)
        return
    version = devices.driver_version or "of unknown version"
    cuda = devices.cuda_driver_version
    text = f"driver {version}" + (f", CUDA up to {cuda[0]}.{cuda[1]}" if cuda else "")
    if devices.gpus or devices.problems:
        yield ok("nvidia driver", text)
        if not computes:
            text = f"{LIBRARY} does not load, which every engine on a card needs"
            yield problem("cuda driver", text, _FIX_NO_LIBRARY)
    else:
        fix = "see `lspci` and `dmesg`; in a container: --gpus all"
        yield warning("nvidia driver", f"{text}; it lists no GPU", fix)
    for gpu in devices.gpus:
        yield _gpu(gpu, users)
    for sentence in devices.problems:
        name = sentence.partition(" cannot")[0].lower()
        yield problem(name, sentence, remedy(sentence))
    if devices.gpus:
        yield _visibility(devices.gpus, environ.get(VISIBLE))


def _no_driver(reason: str, root: Path) -> Finding:
    name = "nvidia driver"
    if not reason.startswith(NO_DRIVER):
        return problem(name, reason, remedy(reason) or FIX_IF_CUT)
    if _has_card(root):
        fix = "install NVIDIA's driver; in a container: --gpus all"
        return problem(name, f"there is an NVIDIA card, but {reason}", fix)
    return unavailable(name, f"{reason}; only CPU profiles run here")


def _has_card(root: Path) -> bool:
    """Whether the PCI bus shows an NVIDIA display controller."""
    try:
        devices = list((root / "sys/bus/pci/devices").iterdir())
    except OSError:
        return False
    return any(
        (read_text(device / "vendor", 64) or "").strip() == _NVIDIA
        and (read_text(device / "class", 64) or "").startswith(_DISPLAY)
        for device in devices
    )


def _gpu(gpu: Gpu, users: Users | Unavailable) -> Finding:
    name = f"gpu {gpu.index}"
    major, minor = gpu.compute_capability
    free = gpu.memory_free_bytes
    text = f"{gpu.name} ({gpu.uuid}), compute capability {major}.{minor}, "
    text += f"{_amount(free)} of {_amount(gpu.memory_total_bytes)} free"
    if gpu.mig:
        text += ", MIG: " + (
            "; ".join(
                f"{part.name} ({part.uuid}), {_amount(part.memory_free_bytes)} free"
                for part in gpu.mig_devices
            )
            or "no slice"
        )
    who = _who(gpu.uuid, users)
    text += f"; {who}"
    if gpu.mig and not gpu.mig_devices:
        fix = "make a slice (sudo nvidia-smi mig -cgi PROFILE -C) or turn MIG off (-mig 0)"
        return warning(name, text, fix)
    if not gpu.mig and free is not None and free < min(LITTLE, gpu.memory_total_bytes // 2):
        return warning(name, text, "end what uses it, or choose another GPU")
    return ok(name, text)


def _who(uuid: str, users: Users | Unavailable) -> str:
    if isinstance(users, Unavailable):
        return f"who uses it is unknown ({users.reason})"
    ours = _namespace_is_ours(row.pid for rows in users.values() for row in rows)
    rows = [
        f"{_process(row.pid, named=ours)} with "
        + ("a hidden amount" if row.used_bytes is None else _amount(row.used_bytes))
        for row in users.get(uuid, ())
    ]
    return f"used by {', '.join(rows)}" if rows else "no compute process uses it"


def _namespace_is_ours(pids: Iterable[int]) -> bool:
    """Whether the driver's process ids are those of /proc.

    In a container they are the host's, and can collide with ours by chance; if all exist here,
    they are taken to be translated.
    """
    return not foreign_pid_namespace("/proc") or all(Path(f"/proc/{pid}").is_dir() for pid in pids)


def _process(pid: int, *, named: bool) -> str:
    """`process 4711 (python3)`; the short name alone, for command lines may hold keys."""
    if not named:
        return f"process {pid} of the host or another container"
    command = (read_text(Path(f"/proc/{pid}/comm"), 64) or "").strip()
    return f"process {pid} ({command})" if command else f"process {pid}"


def _visibility(gpus: tuple[Gpu, ...], value: str | None) -> Finding:
    if value is None:
        return ok(VISIBLE, "not set: CUDA shows every GPU")
    seen = visible_gpus(gpus, value)
    shown = ", ".join(str(gpu.index) for gpu in seen) or "none"
    text = f"{value[:120]!r} shows {'GPU ' if seen else ''}{shown}"
    wrong = misread(gpus, value)
    if wrong is None:
        return ok(VISIBLE, text)
    fix = f"name indices 0 to {len(gpus) - 1} or uuids as `nvidia-smi -L` lists them, or unset it"
    return (warning if seen else problem)(VISIBLE, f"{text}: {wrong}", fix)


def _amount(count: int | None) -> str:
    return "an unknown amount" if count is None else size(count)
