"""The peak of an engine's memory over a stretch of time, taken by anyone beside its supervisor."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec

from launcher.documents.run import Peak
from launcher.record.peak import PeakTracker
from launcher.record.sampler import Sampler, pause_s

if TYPE_CHECKING:
    from launcher.hardware.nvml import Nvml, Unavailable

JOIN_S = 15.0
"""A sample of a very large tree takes seconds, and a card that fell off the bus ten."""


class ResourceWatch:
    """Samples an engine's tree in a thread, inside `with`, and once at its begin and its end.

    The thread takes at most 1 % of a core (`pause_s`). No method raises.

    Args:
        leader: process id of the engine's leader; None: there is nothing to sample.
        gpu: whether the engine uses GPUs at all.
    """

    def __init__(self, leader: int | None, *, gpu: bool) -> None:
        self._peaks = PeakTracker()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._nvml: Nvml | Unavailable | None = None
        self._sampler: Sampler | None = None
        if leader is not None:
            self._nvml = _nvml(gpu=gpu)
            self._sampler = Sampler(leader, nvml=self._nvml)

    def __enter__(self) -> Self:
        if self._sampler is not None:
            self._peaks.add(self._sampler.sample())
            self._thread = threading.Thread(target=self._work, daemon=True, name="memory watch")
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(JOIN_S)
        close = getattr(self._nvml, "close", None)
        if close is not None:
            close()

    def peak(self) -> Peak:
        """The peak of the stretch; without GPU figures where only a difference could be taken.

        The difference is to the moment the engine started, which is over: it would be near 0 here.
        """
        peak = self._peaks.peak()
        if self._sampler is None:
            why = "the process of the engine is not known"
            none = {"ram": "unavailable", "ram_reason": why}
            return Peak(method={**none, "gpu": "unavailable", "gpu_reason": why})
        if peak.method.get("gpu") != "device_delta":
            return peak
        why = peak.method.get("gpu_reason", "NVML does not tell processes apart")
        reason = f"{why}, and how much was in use before the engine started is not known"
        method = peak.method | {"gpu": "unavailable", "gpu_reason": reason}
        return msgspec.structs.replace(peak, gpu_peak_bytes=None, method=method)

    def _work(self) -> None:
        assert self._sampler is not None
        while not self._over.wait(pause_s(self._sampler.cost_s, ready=False)):
            self._peaks.add(self._sampler.sample())
        self._peaks.add(self._sampler.sample())


def _nvml(*, gpu: bool) -> Nvml | Unavailable:
    from launcher.hardware.nvml import Unavailable, open_nvml

    return open_nvml() if gpu else Unavailable("the engine runs on the CPU")
