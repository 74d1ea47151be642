"""The largest figures of a run, and two samples made into one without losing them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from launcher.documents.run import Peak, ProcessSample, Sample

if TYPE_CHECKING:
    from collections.abc import Iterable

_RANK = {"pss": 2, "rss": 1, "per_process": 2, "device_delta": 1, "unavailable": 0}
"""A better method's figure stands over a larger one of a worse method, which counts too much."""

NumberT = TypeVar("NumberT", int, float)


class PeakTracker:
    """Keeps the peak of the samples it is shown."""

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        self._ram: tuple[str, int | None, str | None] | None = None
        self._gpu: tuple[str, int | None, str | None] | None = None
        for sample in samples:
            self.add(sample)

    def add(self, sample: Sample) -> None:
        """Take a sample into account."""
        self._ram = _higher(self._ram, (sample.ram_method, sample.ram_bytes, sample.ram_reason))
        self._gpu = _higher(self._gpu, (sample.gpu_method, sample.gpu_bytes, sample.gpu_reason))

    def peak(self) -> Peak:
        """The peak so far, with methods, and a reason wherever the best method failed."""
        nothing = ("unavailable", None, "no sample was taken")
        ram, gpu = self._ram or nothing, self._gpu or nothing
        method = {"ram": ram[0], "gpu": gpu[0]}
        if ram[2]:
            method["ram_reason"] = ram[2]
        if gpu[2]:
            method["gpu_reason"] = gpu[2]
        return Peak(ram_peak_bytes=ram[1], gpu_peak_bytes=gpu[1], method=method)


def merge(earlier: Sample, later: Sample) -> Sample:
    """One sample for two: the maxima, by the better method; the time is the later one's.

    The processes are those of the sample with more RAM (or GPU memory, where no RAM is known), each
    with its larger figures of the two, so that the number of processes does not grow.
    """
    ram = _higher(*((s.ram_method, s.ram_bytes, s.ram_reason) for s in (earlier, later)))
    gpu = _higher(*((s.gpu_method, s.gpu_bytes, s.gpu_reason) for s in (earlier, later)))
    main, other = (earlier, later) if _weight(earlier) > _weight(later) else (later, earlier)
    others = {process.pid: process for process in other.processes}
    return msgspec.structs.replace(
        later,
        ram_method=ram[0],
        ram_bytes=ram[1],
        ram_reason=ram[2],
        gpu_method=gpu[0],
        gpu_bytes=gpu[1],
        gpu_reason=gpu[2],
        cpu_percent=_larger(earlier.cpu_percent, later.cpu_percent),
        processes=tuple(_merge_process(p, others.get(p.pid)) for p in main.processes),
    )


def _higher(
    one: tuple[str, int | None, str | None] | None, two: tuple[str, int | None, str | None]
) -> tuple[str, int | None, str | None]:
    """Of two (method, bytes, reason), the better method's, then the larger."""
    if one is None:
        return two
    keys = [(_RANK.get(m, 0), -1 if n is None else n) for m, n, _ in (one, two)]
    return two if keys[1] > keys[0] else one


def _weight(sample: Sample) -> tuple[int, int]:
    return (sample.ram_bytes or 0, sample.gpu_bytes or 0)


def _merge_process(process: ProcessSample, other: ProcessSample | None) -> ProcessSample:
    if other is None or other.role != process.role:
        return process
    return msgspec.structs.replace(
        process,
        ram_bytes=_larger(process.ram_bytes, other.ram_bytes),
        cpu_percent=_larger(process.cpu_percent, other.cpu_percent),
        gpu_bytes=_larger(process.gpu_bytes, other.gpu_bytes),
    )


def _larger(one: NumberT | None, two: NumberT | None) -> NumberT | None:
    if one is None or two is None:
        return two if one is None else one
    return max(one, two)
