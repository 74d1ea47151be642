"""NVIDIA GPUs through NVML: typed, bounded in time, and `Unavailable` instead of errors or zeros.

`pynvml` is imported only when the driver's library is there: the import takes 45 ms, and machines
without a GPU should not pay for it. Every call runs in a thread with a time limit, because a driver
whose card fell off the bus may not answer at all.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from launcher.hardware.bounded import BoundedCaller
from launcher.hardware.inventory import Gpu, GpuProcess, MigDevice

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARY = "libnvidia-ml.so.1"
"""The name that pynvml loads; the driver's package installs it."""

KERNEL_PART = Path("/proc/driver/nvidia/version")
"""What the driver's module for the kernel shows, in containers too."""

TIMEOUT_S = 10.0
"""Limit for one question; initialising eight cards without the persistence daemon takes seconds."""

FIRST_RETRY_S = 30.0
LAST_RETRY_S = 600.0
"""After a loss NVML is initialised again after 30 s, then each time twice as late, up to 10 min."""

_REASONS = {
    3: "the driver does not support this question for this card",
    4: "no permission to use the NVIDIA driver (is /dev/nvidiactl readable for this user?)",
    9: "the NVIDIA kernel driver is not loaded",
    13: "the NVIDIA driver is too old to answer this question",
    15: "the GPU is lost: the driver can no longer reach it",
    16: "the GPU needs a reset",
    17: "the operating system blocks access to the GPU",
    18: "the NVIDIA kernel driver and its library differ in version (updated without a reboot?)",
    999: "the NVIDIA driver does not say why it fails (NVML: unknown error)",
}
"""By nvmlReturn_t (nvml.h)."""

_REMEDIES = {
    4: "let this user open /dev/nvidia* (group video or render; a container: --gpus all)",
    9: "load it (sudo modprobe nvidia) or install the driver for this kernel again, then reboot",
    15: "see `dmesg` for Xid errors; reset the card or reboot",
    16: "reset it: sudo nvidia-smi --gpu-reset, or reboot",
    17: "under WSL: wsl --update and wsl --shutdown in Windows, and a newer Windows driver",
    18: "reboot, so that the kernel loads the driver that was installed last",
    999: "in a container: start it again (it loses its GPUs when systemd reloads its units on the"
    " host); else see `dmesg` for NVRM lines, and reboot",
}

NO_DRIVER = "no NVIDIA driver"
_ABSENT = f"{NO_DRIVER}: {LIBRARY} is not installed"
_HALF = f"the NVIDIA driver's kernel part is loaded, and its {LIBRARY} is not here"
_HALF_REMEDY = (
    "in a container: NVIDIA_DRIVER_CAPABILITIES=compute,utility; else install the driver's"
    " libraries (Debian, Ubuntu: libnvidia-compute-VERSION)"
)
"""A container without `utility` has CUDA, and neither NVML nor nvidia-smi, which SGLang asks."""

_LOST = frozenset({1, 9, 15, 16, 18, 999})
"""Codes after which handles are worthless: uninitialised, no driver, lost, reset, mismatch, ?."""

_NO_PERMISSION, _NOT_SUPPORTED, _FUNCTION_NOT_FOUND = 4, 3, 13

T = TypeVar("T")


@dataclass(frozen=True)
class Unavailable:
    """No figure, and why."""

    reason: str


class _Lost(Unavailable):
    """The handles are worthless now; nothing works before NVML is initialised again."""


class _UnreadableError(Exception):
    """A card that was asked for was unreadable when NVML was initialised."""


@dataclass(frozen=True)
class Devices:
    """What NVML told of the cards."""

    gpus: tuple[Gpu, ...]
    """Cards that could be read, in NVML's order, cards in MIG mode with their slices."""
    problems: tuple[str, ...]
    """One sentence for each card that could not be read."""
    driver_version: str | None
    cuda_driver_version: tuple[int, int] | None


def open_nvml(
    *, timeout_s: float = TIMEOUT_S, clock: Callable[[], float] = time.monotonic
) -> Nvml | Unavailable:
    """Initialise NVML, or say why it cannot be: no driver, mismatch, permission, no answer."""
    import ctypes

    try:
        ctypes.CDLL(LIBRARY)
    except OSError as error:
        absent = f"{LIBRARY}: cannot open shared object file" in str(error)
        if not absent:
            return Unavailable(f"the NVIDIA driver's library cannot be loaded: {error}")
        return Unavailable(_HALF if KERNEL_PART.exists() else _ABSENT)
    try:
        import pynvml
    except ImportError as error:
        return Unavailable(f"the Python package nvidia-ml-py cannot be imported: {error}")
    nvml = Nvml(pynvml, timeout_s=timeout_s, clock=clock)
    problem = nvml.start()
    if problem is None:
        return nvml
    nvml.close()
    return Unavailable(problem.reason)


def remedy(reason: str) -> str | None:
    """What to do about the reason of an `Unavailable` or a sentence of `Devices.problems`."""
    if _HALF in reason:
        return _HALF_REMEDY
    return next((fix for code, fix in _REMEDIES.items() if _REASONS[code] in reason), None)


class Nvml:
    """An initialised NVML. Build it with `open_nvml`. No method raises. One caller at a time."""

    def __init__(
        self, pynvml: Any, *, timeout_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pynvml = pynvml
        self._timeout_s = timeout_s
        self._clock = clock
        self._caller = BoundedCaller()
        self._cards: dict[str, Any] = {}
        self._slices: dict[str, dict[str, Any]] = {}
        self._unreadable: list[str] = []
        self._initialised = False
        self._down: Unavailable | None = None
        self._retry_at = 0.0
        self._retry_s = FIRST_RETRY_S

    @property
    def spent_s(self) -> float:
        """CPU seconds spent in NVML so far."""
        return self._caller.spent_s

    def start(self) -> Unavailable | None:
        """Initialise and find the handles of all cards; None when that worked."""
        answer = self._call(self._initialise)
        return answer if isinstance(answer, Unavailable) else None

    def devices(self) -> Devices | Unavailable:
        """Every card that can be read, and a sentence for each that cannot."""
        return self._ask(self._read_devices)

    def process_memory(self) -> dict[int, int | None] | Unavailable:
        """Bytes by process id, summed over cards; None where the driver hides the figure.

        Process ids are those of the host: in a container they may be unknown or mean others.
        """
        return self._ask(lambda: self._sum_processes(self._handles()))

    def device_used(self) -> dict[str, int] | Unavailable:
        """Bytes in use by uuid of the card, whoever uses them."""
        return self._ask(
            lambda: {
                uuid: int(self._pynvml.nvmlDeviceGetMemoryInfo(handle).used)
                for uuid, handle in self._handles().items()
            }
        )

    def users(self) -> dict[str, tuple[GpuProcess, ...]] | Unavailable:
        """Compute processes by the uuid of the card, those on its MIG slices among them."""
        return self._ask(
            lambda: {
                uuid: tuple(
                    GpuProcess(
                        pid=int(row.pid),
                        used_bytes=None if row.usedGpuMemory is None else int(row.usedGpuMemory),
                    )
                    for row in self._processes(uuid, handle)
                )
                for uuid, handle in self._cards.items()
            }
        )

    def close(self) -> None:
        """Shut NVML down; waits at most two seconds for it."""
        with contextlib.suppress(TimeoutError, self._pynvml.NVMLError):  # gone is gone
            self._caller.call(self._pynvml.nvmlShutdown, min(2.0, self._timeout_s))
        self._caller.close()

    def _ask(self, work: Callable[[], T]) -> T | Unavailable:
        """`_call`, with sparing attempts to come back after a loss."""
        if self._down is not None:
            if self._clock() < self._retry_at:
                return self._down
            problem = self.start()
            if problem is not None:
                return self._lose(problem.reason)
            self._down = None
        answer = self._call(work)
        if isinstance(answer, _Lost):
            return self._lose(answer.reason)
        if not isinstance(answer, Unavailable):
            self._retry_s = FIRST_RETRY_S
        return answer

    def _call(self, work: Callable[[], T]) -> T | Unavailable:
        try:
            return self._caller.call(work, self._timeout_s)
        except TimeoutError:
            return _Lost(f"the NVIDIA driver did not answer within {self._timeout_s:g} s")
        except _UnreadableError as error:
            return _Lost(str(error))
        except self._pynvml.NVMLError as error:
            reason = _reason(error)
            return _Lost(reason) if error.value in _LOST else Unavailable(reason)
        except Exception as error:  # noqa: BLE001 - a measurement must not end its caller
            return Unavailable(f"NVML could not be asked: {error}")

    def _lose(self, reason: str) -> Unavailable:
        self._down = Unavailable(reason)
        self._retry_at = self._clock() + self._retry_s
        self._retry_s = min(self._retry_s * 2, LAST_RETRY_S)
        return self._down

    def _initialise(self) -> None:
        nvml = self._pynvml
        if self._initialised:
            with contextlib.suppress(nvml.NVMLError):  # handles of before a loss are worthless
                nvml.nvmlShutdown()
        self._initialised = False
        nvml.nvmlInit()
        self._initialised = True
        self._cards, self._slices, self._unreadable = {}, {}, []
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                uuid = _text(nvml.nvmlDeviceGetUUID(handle))
                self._cards[uuid] = handle
                self._slices[uuid] = self._find_slices(handle)
            except nvml.NVMLError as error:  # it must not hide the others
                self._unreadable.append(_unreadable(index, error))

    def _find_slices(self, card: Any) -> dict[str, Any]:
        """Handles of the MIG slices of a card by uuid; empty when MIG is off or unknown here."""
        nvml = self._pynvml
        found: dict[str, Any] = {}
        try:
            if not nvml.nvmlDeviceGetMigMode(card)[0]:
                return found
            places = nvml.nvmlDeviceGetMaxMigDeviceCount(card)
        except nvml.NVMLError:
            return found
        for place in range(places):
            try:
                handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(card, place)
                found[_text(nvml.nvmlDeviceGetUUID(handle))] = handle
            except nvml.NVMLError:
                continue  # an empty place
        return found

    def _handles(self) -> dict[str, Any]:
        """Handles of all cards; raises where one could not be read."""
        if self._unreadable:
            raise _UnreadableError("; ".join(self._unreadable))
        return dict(self._cards)

    def _sum_processes(self, handles: dict[str, Any]) -> dict[int, int | None]:
        total: dict[int, int | None] = {}
        for uuid, handle in handles.items():
            for row in self._processes(uuid, handle):
                used = row.usedGpuMemory
                before = total.get(row.pid, 0)
                total[row.pid] = None if used is None or before is None else before + int(used)
        return total

    def _processes(self, uuid: str, handle: Any) -> list[Any]:
        """Compute processes of a device; slice by slice where the whole card may not be asked."""
        try:
            return self._running(handle)
        except self._pynvml.NVMLError as error:
            slices = self._slices.get(uuid)
            if not slices or error.value not in (_NO_PERMISSION, _NOT_SUPPORTED):
                raise
        return [row for part in slices.values() for row in self._running(part)]

    def _running(self, handle: Any) -> list[Any]:
        """Rows of (pid, usedGpuMemory); drivers before R510 have only version 2 of the call."""
        nvml = self._pynvml
        try:
            return list(nvml.nvmlDeviceGetComputeRunningProcesses_v3(handle))
        except nvml.NVMLError as error:
            if error.value != _FUNCTION_NOT_FOUND:
                raise
        return list(nvml.nvmlDeviceGetComputeRunningProcesses_v2(handle))

    def _read_devices(self) -> Devices:
        nvml = self._pynvml
        gpus: list[Gpu] = []
        problems: list[str] = []
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                gpus.append(self._read_gpu(index, nvml.nvmlDeviceGetHandleByIndex(index)))
            except nvml.NVMLError as error:
                problems.append(_unreadable(index, error))
        return Devices(tuple(gpus), tuple(problems), self._driver(), self._cuda())

    def _read_gpu(self, index: int, handle: Any) -> Gpu:
        nvml = self._pynvml
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
        return Gpu(
            index=index,
            uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
            name=_text(nvml.nvmlDeviceGetName(handle)),
            compute_capability=(int(major), int(minor)),
            memory_total_bytes=int(memory.total),
            memory_free_bytes=int(memory.free),
            mig=self._mig(handle),
            mig_devices=tuple(
                self._read_slice(uuid, part) for uuid, part in self._find_slices(handle).items()
            ),
        )

    def _read_slice(self, uuid: str, handle: Any) -> MigDevice:
        nvml = self._pynvml
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return MigDevice(
            uuid=uuid,
            name=_text(nvml.nvmlDeviceGetName(handle)),
            memory_total_bytes=int(memory.total),
            memory_free_bytes=int(memory.free),
        )

    def _mig(self, handle: Any) -> bool:
        """Whether MIG is on; cards before Ampere answer `not supported`, which is off."""
        try:
            return bool(self._pynvml.nvmlDeviceGetMigMode(handle)[0])
        except self._pynvml.NVMLError:
            return False

    def _driver(self) -> str | None:
        try:
            return _text(self._pynvml.nvmlSystemGetDriverVersion())
        except self._pynvml.NVMLError:
            return None

    def _cuda(self) -> tuple[int, int] | None:
        """NVML encodes CUDA 12.8 as 12080 (nvml.h, NVML_CUDA_DRIVER_VERSION_MAJOR and _MINOR)."""
        try:
            number = int(self._pynvml.nvmlSystemGetCudaDriverVersion_v2())
        except self._pynvml.NVMLError:
            return None
        return number // 1000, number % 1000 // 10


def _reason(error: Any) -> str:
    code = int(error.value)
    return _REASONS.get(code, f"NVML error {code}: {error}")


def _unreadable(index: int, error: Any) -> str:
    return f"GPU {index} cannot be read: {_reason(error)}"


def _text(value: str | bytes) -> str:
    """Names and identifiers are text in newer pynvml, bytes in older."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value
