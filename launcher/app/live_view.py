"""What `top` shows of services: memory and CPU from /proc, work from the engine's own log.

Nothing is asked of the engine. What cannot be had that way is None, with the reason beside it.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, UnsetType

from launcher import log_lines
from launcher.documents.look import (
    CacheLook,
    LatencyLook,
    Look,
    MemoryLook,
    QueueLook,
    RateLook,
    ServiceLook,
)
from launcher.documents.run import Sample
from launcher.documents.service_state import UP, GatewayState, ServiceState, at_work
from launcher.hardware.nvml import Unavailable
from launcher.linux import processes
from launcher.paths import dirs
from launcher.record.bounded_lines import read_lines
from launcher.record.run_writer import SAMPLES
from launcher.record.sampler import Sampler
from launcher.service import control, logs, store
from launcher.service.supervisor.batch_counter import BatchCounter
from launcher.units import moment, now

if TYPE_CHECKING:
    from launcher.hardware.nvml import Nvml

WINDOW_S = 10.0
"""Rates are those of the last so many seconds."""
BACK_LINES = 400
"""Of the log are read at first."""
BUDGET = 0.05
"""The share of a core that looking at one service may take: PSS of 50 GB costs the kernel 1 s."""
NO_ENGINE = "no engine runs"


class LiveView:
    """Looks at services again and again. `close` it."""

    def __init__(self) -> None:
        self._views: dict[str, _View] = {}
        self._nvml: Nvml | Unavailable | None = None

    def look(self, names: Iterable[str] = (), *, everything: bool = False) -> Look:
        """All services as of now.

        All that run, those of `names`, or `everything` ever started; and whatever was seen at an
        earlier look, so that one that dies stays in sight.

        Raises:
            QlaunchError: `no_such_service` (exit 3).
        """
        wanted = list(names)
        if wanted:
            states = [control.status(name) for name in wanted]
        else:
            states = [
                state
                for state in control.services()
                if everything or at_work(state) or state.service in self._views
            ]
        return Look(at=now(), services=tuple(self._look(state) for state in states))

    def close(self) -> None:
        """Close logs and NVML."""
        for view in self._views.values():
            view.close()
        self._views.clear()
        if self._nvml is not None and not isinstance(self._nvml, Unavailable):
            self._nvml.close()

    def _look(self, state: ServiceState) -> ServiceLook:
        if state.replicas:
            return self._look_at_set(state)
        view = self._views.get(state.service)
        if view is None or not view.is_of(state):
            if view is not None:
                view.close()
            view = self._views[state.service] = _View(state, self._gpu_reader(state))
        return view.row(state)

    def _look_at_set(self, state: ServiceState) -> ServiceLook:
        """The sum of its replicas; the gateway's own memory is not in it."""
        found = (store.read_state(each.service) for each in state.replicas)
        rows = [self._look(each) for each in found if each is not None and at_work(each)]
        return set_row(state, rows)

    def _gpu_reader(self, state: ServiceState) -> Nvml | Unavailable:
        if state.predicted is None or state.predicted.gpu_bytes is None:
            return Unavailable("the plan uses no GPU")
        if self._nvml is None:
            from launcher.hardware.nvml import open_nvml

            self._nvml = open_nvml()
        return self._nvml


def set_row(state: ServiceState, rows: Sequence[ServiceLook]) -> ServiceLook:
    """A set as one service, from the rows of its replicas; each of them stands in `replicas`."""
    why = f"no replica says ({state.state})"
    queued = [row.queue.requests for row in rows if row.queue.requests is not None]
    known = [row.latency for row in rows if row.latency.ms is not None]
    cpu = [row.cpu_percent for row in rows if row.cpu_percent is not None]
    return _row(
        state,
        uptime_s=max((row.uptime_s for row in rows if row.uptime_s is not None), default=None),
        cpu_percent=round(sum(cpu), 1) if cpu else None,
        ram=_summed([row.ram for row in rows], "ram"),
        gpu=_summed([row.gpu for row in rows], "gpu"),
        rate=_rates([row.rate for row in rows], why),
        queue=QueueLook(requests=sum(queued)) if queued else QueueLook(requests=None, reason=why),
        latency=max(
            known, key=lambda each: each.ms or 0.0, default=LatencyLook(ms=None, reason=why)
        ),
        replicas=tuple(rows),
    )


def _row(
    state: ServiceState,
    *,
    uptime_s: float | None,
    cpu_percent: float | None,
    ram: MemoryLook,
    gpu: MemoryLook,
    rate: RateLook,
    queue: QueueLook,
    latency: LatencyLook,
    replicas: tuple[ServiceLook, ...] | UnsetType = UNSET,
) -> ServiceLook:
    """What a service's state says of it, with what was measured beside it."""
    gateway = state.gateway
    return ServiceLook(
        service=state.service,
        profile=state.profile,
        state=state.state,
        detail=state.failure.message if state.failure else state.detail,
        endpoint=state.endpoint,
        run=state.run,
        uptime_s=uptime_s,
        restarts=state.restarts,
        cpu_percent=cpu_percent,
        ram=ram,
        gpu=gpu,
        rate=rate,
        queue=queue,
        latency=latency,
        replicas=replicas,
        cache=_cache(gateway) if gateway is not None and gateway.cached else UNSET,
    )


def _rates(parts: Sequence[RateLook], why: str) -> RateLook:
    """The work of several engines: of those that tell theirs."""
    known = [each for each in parts if each.texts_per_s is not None]
    if not known:
        return RateLook(texts_per_s=None, tokens_per_s=None, reason=why)
    return RateLook(
        texts_per_s=round(sum(each.texts_per_s or 0.0 for each in known), 1),
        tokens_per_s=round(sum(each.tokens_per_s or 0.0 for each in known), 1),
        window_s=WINDOW_S,
    )


def _summed(parts: Sequence[MemoryLook], kind: str) -> MemoryLook:
    """Memory of several engines; none where one of them is not known."""
    known = [each.bytes for each in parts if each.bytes is not None]
    if len(known) < len(parts) or not parts:
        missing = next((each.reason for each in parts if each.bytes is None), NO_ENGINE)
        return _nothing(kind, missing or None)
    methods = sorted({each.method for each in parts})
    return MemoryLook(
        bytes=sum(known),
        method=methods[0] if len(methods) == 1 else "mixed",
        by_process=_sums(pair for each in parts for pair in each.by_process.items()),
    )


class _View:
    """One life of one engine."""

    def __init__(self, state: ServiceState, nvml: Nvml | Unavailable) -> None:
        self._run, self._engine = state.run, state.engine
        self._where = store.folder(state.service)
        self._folder = dirs().runs / state.run
        self._sampler = (
            None
            if state.engine is None or not processes.is_here(state.engine)  # a stranger's number
            else Sampler(state.engine.pid, nvml=nvml, extra_pids=self._members)
        )
        self._sample: Sample | None = None
        self._due = 0.0
        self._log = _Log(self._folder)

    def is_of(self, state: ServiceState) -> bool:
        """Whether it is still the same engine."""
        return (state.run, state.engine) == (self._run, self._engine)

    def close(self) -> None:
        self._log.close()

    def row(self, state: ServiceState) -> ServiceLook:
        """A service at this moment."""
        sample = self._take()
        rate, queue = self._log.work(state)
        return _row(
            state,
            uptime_s=_uptime(state),
            cpu_percent=None if sample is None else sample.cpu_percent,
            ram=_ram(sample),
            gpu=self._gpu(sample),
            rate=rate,
            queue=queue,
            latency=latency(state),
        )

    def _members(self) -> list[int]:
        return [process.pid for process in store.read_tree(self._where)]

    def _take(self) -> Sample | None:
        """A sample, or the last one where another would cost too much already."""
        if self._sampler is None:
            return None
        now = time.monotonic()
        if now >= self._due:
            sample = self._sampler.sample()
            first = self._sample is None
            self._sample = sample
            self._due = now if first else now + self._sampler.cost_s / BUDGET
        return self._sample

    def _gpu(self, sample: Sample | None) -> MemoryLook:
        if sample is None:
            return _nothing("gpu", NO_ENGINE)
        if sample.gpu_method == "device_delta":
            # A difference needs what was in use before the engine began: the supervisor knows.
            recorded = _last_sample(self._folder)
            if recorded is None or recorded.gpu_bytes is None:
                return _nothing("gpu", sample.gpu_reason)
            return _gpu_row(recorded)
        return _gpu_row(sample)


class _Log:
    """The work of the last seconds, by the engine's log."""

    def __init__(self, folder: Path) -> None:
        self._reader = logs.Reader(folder, BACK_LINES, None)
        self._batches: deque[tuple[float, int, int]] = deque()
        self._traffic = BatchCounter()
        self._told = False

    def close(self) -> None:
        self._reader.close()

    def work(self, state: ServiceState) -> tuple[RateLook, QueueLook]:
        """What it does, and what waits for it."""
        now = time.time()
        self._read(now)
        while self._batches and self._batches[0][0] < now - WINDOW_S:
            self._batches.popleft()
        if state.state not in UP or not self._told:
            why = "its log shows no batch yet" if state.state in UP else f"it is {state.state}"
            return (
                RateLook(texts_per_s=None, tokens_per_s=None, reason=why),
                QueueLook(requests=None, reason=why),
            )
        texts, tokens = (sum(batch[at] for batch in self._batches) for at in (1, 2))
        rate = RateLook(
            texts_per_s=round(texts / WINDOW_S, 1),
            tokens_per_s=round(tokens / WINDOW_S, 1),
            window_s=WINDOW_S,
        )
        return rate, self._queue()

    def _queue(self) -> QueueLook:
        if not self._batches:
            return QueueLook(requests=None, reason=f"no batch in the last {WINDOW_S:.0f} s")
        if self._traffic.queue is None:
            return QueueLook(requests=None, reason="its log does not say")
        return QueueLook(requests=self._traffic.queue)

    def _read(self, now: float) -> None:
        for line in self._reader.lines():
            if log_lines.BATCH not in line:
                continue
            self._told = True
            texts, tokens = self._traffic.texts, self._traffic.tokens
            if self._traffic.read(line):
                at = log_lines.written_at(line)
                batch = (self._traffic.texts - texts, self._traffic.tokens - tokens)
                self._batches.append((now if at is None else min(at, now), *batch))


def latency(state: ServiceState) -> LatencyLook:
    """Of the supervisor's last embedding check; until the first, of the smoke's one text alone."""
    check, smoke = state.last_check, state.smoke
    if check.latency_ms is not None:
        return LatencyLook(ms=check.latency_ms, source="check", age_s=_age(check.at))
    if smoke is not None and smoke.latency_ms is not None:
        return LatencyLook(ms=round(smoke.latency_ms, 1), source="smoke", age_s=None)
    return LatencyLook(ms=None, reason="none of qlaunch's own embedding calls was answered yet")


def _cache(gateway: GatewayState) -> CacheLook:
    """What the cache before the engine answered, as of the supervisor's last look."""
    use = gateway.use
    return CacheLook(
        inputs=use.inputs,
        hits=use.hits,
        hit_rate=use.hit_rate,
        bypassed=gateway.bypassed,
        problem=gateway.problem,
    )


def _age(at: str | None) -> float | None:
    then = moment(at or "")
    if then is None:
        return None
    return round(max(0.0, (datetime.now(UTC) - then).total_seconds()), 1)


def _uptime(state: ServiceState) -> float | None:
    if state.engine is None or not at_work(state) or not processes.is_here(state.engine):
        return None
    return round(processes.age_s(state.engine), 1)


def _ram(sample: Sample | None) -> MemoryLook:
    if sample is None:
        return _nothing("ram", NO_ENGINE)
    if sample.ram_bytes is None:
        return _nothing("ram", sample.ram_reason)
    return MemoryLook(
        bytes=sample.ram_bytes,
        method=sample.ram_method,
        by_process=_sums((process.role, process.ram_bytes) for process in sample.processes),
        reason=sample.ram_reason or UNSET,
    )


def _gpu_row(sample: Sample) -> MemoryLook:
    if sample.gpu_bytes is None:
        return _nothing("gpu", sample.gpu_reason)
    return MemoryLook(
        bytes=sample.gpu_bytes,
        method=sample.gpu_method,
        by_process=_sums((process.role, process.gpu_bytes) for process in sample.processes),
        reason=sample.gpu_reason or UNSET,
    )


def _nothing(kind: str, reason: str | None) -> MemoryLook:
    why = reason or f"{kind} could not be measured"
    return MemoryLook(bytes=None, method="unavailable", by_process={}, reason=why)


def _sums(by: Iterable[tuple[str, int | None]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for role, used in by:
        if used is not None:
            total[role] = total.get(role, 0) + used
    return total


def _last_sample(folder: Path) -> Sample | None:
    """The newest whole sample of a run's record; only the last lines are decoded."""
    for line in reversed(deque(read_lines(folder / SAMPLES), maxlen=2)):
        with contextlib.suppress(ValueError, RecursionError):
            return msgspec.json.decode(line, type=Sample)
    return None
