"""The run record of a service, as its supervisor writes it: never a reason to stop serving."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from launcher.documents.failure import Failure
from launcher.documents.plan import Plan
from launcher.documents.run import Peak, Phase, Run, Sample
from launcher.documents.service_state import ServiceState
from launcher.linux import processes
from launcher.linux.files import write_atomic
from launcher.linux.procfs import foreign_pid_namespace
from launcher.paths import dirs, private_dir
from launcher.record.peak import PeakTracker
from launcher.record.runs import RunWriter, new_run_id
from launcher.record.sampler import Sampler, pause_s
from launcher.record.scrub import Scrubber
from launcher.service.document import error_of
from launcher.service.logs import LOG_NAME
from launcher.service.supervisor.engine_log import LINE_BYTES, LogFile
from launcher.service.supervisor.http_probe import seconds_since
from launcher.units import now, size

if TYPE_CHECKING:
    from launcher.hardware.nvml import Nvml, Unavailable

CRASH_LOGS = 5
"""How many logs of dead engines a run keeps."""
_LINE_CHARS = LINE_BYTES + 100
"""The pump has cut longer lines already, and says so at their end."""
_PHASES = 200
"""Phases kept in a record: a service that flaps for years must not fill the disk."""


def cleaner(scrub: Scrubber) -> Callable[[str], str]:
    """What makes captured lines fit to keep and to print."""
    return lambda text: scrub.printable(text, limit=_LINE_CHARS)


class RunRecorder:
    """The record of one run: phases, events, samples, peaks, the engine's log.

    Once it is begun, nothing here raises: a full disk leaves gaps in the record (which
    `problem` counts), and the engine goes on serving.
    """

    def __init__(self, plan: Plan, began: float, secrets: Sequence[str] = ()) -> None:
        """Begin a record. `began` is the monotonic time from which its times count.

        Raises:
            OSError: the record's folder cannot be made or written.
            QlaunchError: `state_dir_unsafe` (exit 1).
        """
        self._plan, self._began = plan, began
        self.run_id = new_run_id(plan.service, datetime.now(UTC))
        private_dir(dirs().runs)
        self.path: Path = private_dir(dirs().runs / self.run_id)
        self.log_path = self.path / LOG_NAME
        self.engine_log = LogFile(self.log_path)
        self._writer = RunWriter(self.path, began=began, secrets=secrets)
        self._peaks = PeakTracker()
        self.latest: Sample | None = None
        """The last sample of an engine that is still measured."""
        self._nvml: Nvml | Unavailable | None = None
        self._sampler: Sampler | None = None
        self._crashes = 0
        self._run = Run(
            version=1,
            run=self.run_id,
            service=plan.service,
            profile=plan.profile,
            began=now(),
            plan=plan,
            versions={"engine": plan.engine.version, "release": plan.engine.release},
        )
        self._writer.write(self._run)

    @property
    def measured(self) -> Peak:
        """The peaks so far."""
        return self._peaks.peak()

    @property
    def problem(self) -> str | None:
        """What is missing from the record, if anything is."""
        return self._writer.problem

    def phase(self, name: str) -> None:
        """Note that the service has entered a state."""
        phase = Phase(name=name, t_s=seconds_since(self._began))
        phases = (
            *self._run.phases[: _PHASES // 2],
            *self._run.phases[_PHASES // 2 :][-_PHASES // 2 :],
        )
        self._run = msgspec.structs.replace(self._run, phases=(*phases, phase))
        self.event("phase", phase=name)

    def event(self, name: str, **fields: Any) -> None:
        """Note something that happened."""
        self._writer.event(name, **fields)

    def begin_life(self, leader_pid: int, members: Callable[[], Iterable[int]]) -> None:
        """Measure this engine from now on; `members` are the processes of its tree."""
        if self._nvml is None:
            self._nvml = _open_nvml(self._plan.device)
        self._sampler = Sampler(leader_pid, nvml=self._nvml, began=self._began, extra_pids=members)

    def end_life(self) -> None:
        """Measure no more."""
        self._sampler = self.latest = None

    def sample(self, *, ready: bool) -> float:
        """Take a sample; seconds until the next one."""
        if self._sampler is None:
            return pause_s(0.0, ready=ready)
        self.latest = sample = self._sampler.sample()
        self._peaks.add(sample)
        self._writer.sample(sample)
        return pause_s(self._sampler.cost_s, ready=ready)

    def forked(self) -> None:
        """Note that the import was another run's."""
        self._run = msgspec.structs.replace(self._run, forked=True)
        self._writer.write(self._run)

    def replanned(self, plan: Plan) -> None:
        """A fallback step changed the plan: what follows is held against this one."""
        self._plan = plan

    def resized(self, plan: Plan) -> None:
        """A set has another number of replicas: its memory is another one from now on."""
        self._plan, self._peaks = plan, PeakTracker()

    def verified(self) -> None:
        """Take the measure of a service that has just been verified, against its prediction."""
        self.sample(ready=True)
        peak = self._peaks.peak()
        self._run = msgspec.structs.replace(
            self._run,
            verified_peak=peak,
            prediction_error=error_of(self._plan.predicted, peak),
        )

    def gpu_held(self, pids: Collection[int]) -> str | None:
        """What NVML says these processes, ended by now, still hold; None: nothing, or unknown."""
        from launcher.hardware.nvml import Nvml

        if not isinstance(self._nvml, Nvml) or foreign_pid_namespace("/proc"):
            return None  # another namespace's process ids prove nothing
        found = self._nvml.process_memory()
        held = sorted(pid for pid in found if pid in pids) if isinstance(found, dict) else []
        if not held:
            return None
        return f"GPU memory is still held by process {', '.join(map(str, held))}"

    def gpu_others(self, pids: Collection[int]) -> list[str]:
        """Who else uses the GPUs, one line each, as far as NVML tells."""
        from launcher.hardware.nvml import Nvml

        if not isinstance(self._nvml, Nvml):
            return []
        found = self._nvml.process_memory()
        if not isinstance(found, dict):
            return []
        others = {pid: used for pid, used in found.items() if pid not in pids}
        return [
            f"process {pid} ({_command(pid)}) also uses the GPU"
            + ("" if used is None else f": {size(used)}")
            for pid, used in sorted(others.items())[:8]
        ]

    def keep_crash_log(self, text: str) -> None:
        """Keep what a dead engine said, whatever its successors write over it."""
        self._crashes += 1
        number = (self._crashes - 1) % CRASH_LOGS + 1
        try:
            write_atomic(self.path / f"crash-{number}.log", text.encode("utf-8", "replace"))
        except OSError:
            return

    def save(self, state: ServiceState) -> None:
        """Write `run.json` as things stand."""
        engine = msgspec.structs.replace(self._plan.engine, argv=state.engine_plan.argv)
        self._run = msgspec.structs.replace(
            self._run,
            plan=msgspec.structs.replace(self._plan, engine=engine),
            timings=state.timings,
            peak=self._peaks.peak(),
            smoke=state.smoke,
            restarts=state.restarts,
            fallbacks=state.fallbacks,
            cache=None if state.gateway is None else state.gateway.use,
        )
        self._writer.write(self._run)

    def finish(self, outcome: str, state: ServiceState, failure: Failure | None) -> None:
        """Write the last `run.json`."""
        self._run = msgspec.structs.replace(
            self._run,
            outcome=outcome,
            ended=now(),
            failure=failure,
        )
        self.save(state)

    def close(self) -> None:
        """Close the files."""
        self.engine_log.close()


def _command(pid: int) -> str:
    stat = processes.read_stat(pid)
    return stat.command if stat else "not of this container"


def _open_nvml(device: str) -> Nvml | Unavailable:
    from launcher.hardware.nvml import Unavailable, open_nvml

    return open_nvml() if device == "cuda" else Unavailable("the plan uses no GPU")
