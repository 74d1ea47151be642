"""What a machine is, as far as serving embeddings cares. Sizes in bytes; None is unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

BF16_FLAGS: Final = ("amx_bf16", "avx512_bf16", "bf16")
"""Matrix products in bfloat16; the last is Arm's."""
INT8_FLAGS: Final = ("avx512_vnni", "avx_vnni", "amx_int8")
"""Products of 8-bit integers whose sums cannot overflow, on x86-64."""


class MigDevice(msgspec.Struct, frozen=True, kw_only=True):
    """One slice of a GPU in MIG mode, as CUDA can use it."""

    uuid: str
    name: str
    memory_total_bytes: int
    memory_free_bytes: int | None


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One NVIDIA GPU as NVML sees it, or the one MIG slice of it that CUDA would use."""

    index: int
    """NVML's index (PCI bus order), also for a slice: the index of its card."""
    uuid: str
    name: str
    compute_capability: tuple[int, int]
    memory_total_bytes: int
    memory_free_bytes: int | None
    mig: bool = False
    """The card is in MIG mode, or this is a slice of such a card (its uuid begins with `MIG-`)."""
    mig_devices: tuple[MigDevice, ...] = ()
    """The slices of a card in MIG mode; empty for a slice and for a whole card."""


class GpuProcess(msgspec.Struct, frozen=True, kw_only=True):
    """One compute process on a GPU."""

    pid: int
    """As the driver gives it: the host's number, which a container may not know."""
    used_bytes: int | None
    """None where the driver hides it."""


class Cpu(msgspec.Struct, frozen=True, kw_only=True):
    """The processor, and how much of it this process may use."""

    model: str
    machine: str
    """`platform.machine()`: x86_64, aarch64."""
    flags: tuple[str, ...]
    """Instruction-set flags as /proc/cpuinfo prints them, sorted (avx512_bf16, amx_bf16, …); not
    those that the environment hides from what computes."""
    logical: int
    """Logical processors of the machine."""
    usable: int
    """Whole threads this process can really run: min of affinity and cgroup quota, at least 1."""
    usable_source: str
    """Which limit decided: `machine`, `affinity` or `cgroup quota`."""
    hidden: tuple[str, ...] = ()
    """Flags that the processor has and the environment hides, sorted (`launcher.hardware.isa`)."""
    masks: tuple[str, ...] = ()
    """The variables that hide something, as `ONEDNN_MAX_CPU_ISA=AVX2`."""

    @property
    def computes_bf16(self) -> bool:
        """Whether bfloat16 matrix products run in hardware (AVX512-BF16, AMX-BF16, Arm bf16)."""
        return any(flag in self.flags for flag in BF16_FLAGS)

    @property
    def computes_int8(self) -> bool:
        """Whether products of 8-bit integers run in hardware: VNNI or AMX, on x86-64."""
        return any(flag in self.flags for flag in INT8_FLAGS)

    @property
    def vector_kernels(self) -> bool:
        """Whether PyTorch has vector kernels for it: on x86-64 only from AVX2 on."""
        return self.machine != "x86_64" or "avx2" in self.flags

    def masked(self, *flags: str) -> str:
        """` (masked by VARIABLE=VALUE)` where the environment hides one of these flags, else ``."""
        if not any(flag in self.hidden for flag in flags):
            return ""
        return f" (masked by {self.masks[0]})"


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """RAM: the machine's and what the cgroup leaves of it."""

    total_bytes: int
    available_bytes: int
    """What a new process can take now: the machine's available, or what the limit leaves."""
    limit_bytes: int | None
    """The cgroup limit where it is below the machine's total, else None."""

    @property
    def usable_bytes(self) -> int:
        """The cgroup limit if there is one, else the machine's total."""
        return self.total_bytes if self.limit_bytes is None else self.limit_bytes


class Swap(msgspec.Struct, frozen=True, kw_only=True):
    """Swap space of the machine."""

    total_bytes: int
    free_bytes: int


class NumaNode(msgspec.Struct, frozen=True, kw_only=True):
    """Processors and the memory that is near to them."""

    index: int
    cpus: tuple[int, ...]
    """Logical processors; empty for a node of memory alone."""
    memory_total_bytes: int | None


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """The file system under a path."""

    path: Path
    """The nearest existing folder, where the path itself is not there yet."""
    mount: Path
    total_bytes: int
    free_bytes: int
    """What this user may still write."""
    free_files: int | None
    """Inodes left; None where the file system has no such limit."""
    read_only: bool
    no_exec: bool
    """Programs and compiled modules cannot be run from there."""


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """One reading of the machine."""

    cpu: Cpu
    memory: Memory
    gpus: tuple[Gpu, ...]
    gpu_status: str
    """`ok`, or why no GPU could be read (`no NVIDIA driver: …`)."""
    driver_version: str | None
    cuda_driver_version: tuple[int, int] | None
    """Newest CUDA the driver runs, such as (13, 0)."""
    assumed: tuple[str, ...] = ()
    """What nobody has read but was taken for granted, of a machine one does not sit at; empty for a
    reading."""
