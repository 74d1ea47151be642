"""How much GPU memory the engine uses: by process if NVML knows them, else by difference."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from launcher.hardware.nvml import Unavailable
from launcher.linux.procfs import foreign_pid_namespace

if TYPE_CHECKING:
    from launcher.documents.run import GpuMethod


class GpuReader(Protocol):
    """What the sampler asks of `launcher.hardware.nvml.Nvml`."""

    @property
    def spent_s(self) -> float:
        """CPU seconds spent in it so far."""

    def process_memory(self) -> dict[int, int | None] | Unavailable:
        """Bytes by process id."""

    def device_used(self) -> dict[str, int] | Unavailable:
        """Bytes in use by device uuid."""


@dataclass(frozen=True)
class GpuReading:
    """GPU memory of the tree at one moment."""

    method: GpuMethod
    total_bytes: int | None = None
    by_pid: dict[int, int] = field(default_factory=dict)
    reason: str | None = None
    """Why the method is not `per_process`."""


class GpuAccount:
    """Attributes GPU memory to a process tree. Build it before the engine touches a GPU."""

    def __init__(self, reader: GpuReader | Unavailable, proc: str) -> None:
        self._reader = reader
        self._proc = proc
        self._foreign = foreign_pid_namespace(proc)
        self._baseline: dict[str, int] | Unavailable = (
            reader if isinstance(reader, Unavailable) else reader.device_used()
        )

    def read(self, pids: set[int]) -> GpuReading:
        """GPU bytes of the processes `pids`, with the method that gave them."""
        if isinstance(self._reader, Unavailable):
            return GpuReading("unavailable", reason=self._reader.reason)
        processes = self._reader.process_memory()
        if isinstance(processes, Unavailable):
            return self._by_difference(self._reader, processes.reason)
        ours = {pid: used for pid, used in processes.items() if pid in pids}
        known = {pid: used for pid, used in ours.items() if used is not None}
        if not ours:
            return self._by_difference(self._reader, "NVML lists no process of the engine")
        if len(known) < len(ours):
            return self._by_difference(self._reader, "the driver hides the memory of processes")
        if self._foreign and not all(self._exists(pid) for pid in processes):
            return self._by_difference(self._reader, "NVML gives process ids of another namespace")
        return GpuReading("per_process", sum(known.values()), known)

    def _exists(self, pid: int) -> bool:
        """In a container NVML may give ids of the host, which can collide with ours by chance.

        If all the ids it gives exist here, they are taken to be translated.
        """
        return os.path.isdir(f"{self._proc}/{pid}")  # noqa: PTH112 - no Path for one stat call

    def _by_difference(self, reader: GpuReader, why: str) -> GpuReading:
        """Memory in use on the devices, less what was in use before the engine began.

        Where less is in use than at the start, someone else has let memory go: the lower figure is
        the baseline from then on, so that a later difference is not too small.
        """
        used = reader.device_used()
        if isinstance(used, Unavailable):
            return GpuReading("unavailable", reason=used.reason)
        if isinstance(self._baseline, Unavailable):
            reason = f"{why}, and before the start: {self._baseline.reason}"
            return GpuReading("unavailable", reason=reason)
        total = 0
        for uuid, now in used.items():
            self._baseline[uuid] = min(now, self._baseline.get(uuid, now))
            total += now - self._baseline[uuid]
        return GpuReading("device_delta", total, reason=why)
