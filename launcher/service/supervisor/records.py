"""What a supervisor writes: the state, the run record, the journal and the roll, kept together."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypedDict

import msgspec

from launcher.documents.failure import Failure, TakenFallback
from launcher.documents.plan import Plan
from launcher.documents.service_state import (
    START,
    GatewayState,
    LastCheck,
    ServiceState,
    State,
)
from launcher.documents.smoke import Check, SmokeReport
from launcher.linux import processes
from launcher.linux.processes import ProcessId
from launcher.record.scrub import Scrubber
from launcher.service import failures, keys, scratch
from launcher.service.process_tree import StopReport
from launcher.service.store import Folder, Lock, not_written
from launcher.service.supervisor import fallback_steps, states
from launcher.service.supervisor.engine_life import Command, engine_command
from launcher.service.supervisor.http_probe import seconds_since
from launcher.service.supervisor.run_recorder import RunRecorder, cleaner
from launcher.service.supervisor.state_writer import Journal, Members, StateWriter, first_state
from launcher.units import now


class SmokePlace(TypedDict):
    """Where a smoke runs."""

    key: str | None
    cwd: Path
    clean: Callable[[str], str]
    log: Callable[[str], object]


class ServiceRecords:
    """The one writer's pens. Once opened, nothing here raises for a full disk."""

    def __init__(
        self,
        where: Folder,
        plan: Plan,
        *,
        lock: Lock,
        began: float,
        on_change: Callable[[ServiceState], object] | None,
        may_follow: Callable[[State, State], bool] = states.may_follow,
    ) -> None:
        """Make the run record and publish the first state.

        Raises:
            QlaunchError: `api_key_unusable` (exit 2), `state_dir_unsafe`, `state_not_written`
                (exit 1): nothing was started.
        """
        self._where, self._began, self._lock = where, began, lock
        self._halted = ""
        self._scratch: scratch.Scratch | None = None
        path = plan.api_key_file
        self.key = keys.read_key(path) if path else None
        secrets = [self.key] if self.key else []
        self.scrub = Scrubber(secrets)
        self.clean = cleaner(self.scrub)
        self.journal = Journal(where, self.clean)
        self.roll = Members(where, self.journal, lock)
        try:
            if (me := processes.process_id(os.getpid())) is not None:
                lock.sign(me)
            self.recorder = RunRecorder(plan, began, secrets)
            first = first_state(plan, self.recorder.run_id, self.recorder.measured, began)
            self.status = StateWriter(
                where,
                first,
                began=began,
                journal=self.journal,
                lock=lock,
                on_change=on_change,
                may_follow=may_follow,
            )
        except OSError as error:
            raise not_written(where.path, error) from error
        self.recorder.phase("starting")
        self.journal.write(f"starting run {self.recorder.run_id}")

    @property
    def log_path(self) -> str:
        """The engine's log, to name in messages."""
        return str(self.recorder.log_path)

    @property
    def path(self) -> Path:
        """Folder of the run record."""
        return self.recorder.path

    def enter(self, state: State, detail: str, **changes: object) -> None:
        """Go to `state`, in status and record."""
        self.recorder.phase(state)
        self.status.enter(state, detail, **changes)

    def for_smoke(self) -> SmokePlace:
        """What the smoke's process is given: key, folder, and where its words go."""
        return SmokePlace(
            key=self.key, cwd=self.recorder.path, clean=self.scrub, log=self.journal.write
        )

    def fell_back(self, taken: TakenFallback, plan: Plan, failure: Failure) -> None:
        """Go to `backoff` before a start with less: `plan` is the one in force from now on."""
        self.recorder.replanned(plan)
        self.recorder.event("fallback", **msgspec.to_builtins(taken))
        flags = fallback_steps.words(taken.flags)
        self.enter(
            "backoff",
            f"{failure.message}; trying with {flags} (step {taken.step} of {taken.of})",
            fallbacks=(*self.status.now.fallbacks, taken),
            predicted=plan.predicted,
            failure=failure,
        )

    def moved(self, failure: Failure) -> None:
        """Go to `backoff` before a start on another port."""
        self.recorder.event("port_lost", detail=failure.message)
        self.enter("backoff", f"{failure.message}; taking another port", failure=failure)

    def verified(self, smoke: SmokeReport) -> None:
        """Go to `ready`. The record first: whoever sees the state finds the run written down."""
        peak = self.recorder.measured
        self.status.change(measured=peak, verified_peak=peak, smoke=smoke)
        self.recorder.phase("ready")
        self.recorder.save(self.status.now)
        self.status.enter("ready", "verified", failure=None)

    def template(self, process: ProcessId | None) -> None:
        """Note which process the next lives are forked from; None: an import starts the next."""
        if process is None:
            self.recorder.event("template_ended")
        else:
            self.recorder.event("template", pid=process.pid)
        self.roll.beside("template", process)
        self.status.change(template=process)

    def gateway(self, process: ProcessId | None) -> None:
        """Note which process the gateway is; None: none runs."""
        if process is not None:
            self.recorder.event("gateway", pid=process.pid)
        self.roll.beside("gateway", process)
        self.gateway_is(process=process)

    def gateway_is(self, **changes: object) -> None:
        """Note what is new of the gateway."""
        before = self.status.now.gateway or GatewayState()
        self.status.change(gateway=msgspec.structs.replace(before, **changes))

    def halted(self, found: str) -> None:
        """Tell which parts of a start were stopped; empty where all of them go on."""
        if found != self._halted and self.status.state in START:
            self.status.change(detail=found)
        self._halted = found

    def time(self, name: Literal["ready_s", "verified_s"]) -> None:
        """Note a time since `up`, the first time."""
        timings = self.status.now.timings
        if getattr(timings, name) is None:
            taken = msgspec.structs.replace(timings, **{name: seconds_since(self._began)})
            self.status.change(timings=taken)

    def checked(self, latency_ms: float | None, cosine: float | None) -> None:
        """Note what the last right answer of our own took, where it is a new one.

        `cosine`: with the vector that was verified.
        """
        if latency_ms is not None and latency_ms != self.status.now.last_check.latency_ms:
            found = LastCheck(latency_ms=latency_ms, cosine=cosine, at=now())
            self.status.change(last_check=found)

    def drifted(self, detail: str) -> None:
        """What was verified no longer holds: the smoke's result says so from now on."""
        smoke = self.status.now.smoke or SmokeReport(ok=False, checks=())
        check = Check(name=failures.UNCHANGED, ok=False, detail=detail)
        self.recorder.event("drifted", detail=detail)
        self.status.change(
            smoke=msgspec.structs.replace(
                smoke,
                ok=False,
                checks=(*smoke.checks, check),
                suspect="weights",
                explanation=failures.DRIFTED,
            )
        )

    def command(self, plan: Plan, port: int) -> Command:
        """What one more life of the engine runs: with its key in a file, in a new scratch folder.

        Raises:
            QlaunchError: `no_temporary_folder` (exit 6).
            OSError: the key cannot be written.
        """
        # Where all its processes start; somebody may have removed it since the last life.
        self.recorder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.key is not None:
            keys.write_secrets_config(self._where.secrets_config, self.key)
        self._drop_scratch()
        self._scratch = scratch.make(os.environ, spare=self._where.path)
        return engine_command(
            plan,
            port=port,
            key=self.key,
            secrets_config=self._where.secrets_config,
            run=self.recorder.run_id,
            cwd=self.recorder.path,
            scratch=self._scratch.path,
        )

    def _drop_scratch(self) -> None:
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None

    def stopped(self, report: StopReport) -> None:
        """Note what a stop took."""
        for step in report.steps:
            self.journal.write(step)
            self.recorder.event("stop_step", text=step)

    def finish(self, state: State, failure: Failure | None, detail: str = "") -> None:
        """Write the last state."""
        if failure is not None:
            detail = failure.message
        self._drop_scratch()
        if not self._lock.displaced():
            self._where.secrets_config.unlink(missing_ok=True)
            self._where.tree.unlink(missing_ok=True)
        self.recorder.phase(state)
        self.recorder.finish(state, self.status.now, failure)
        changes = {} if failure is None else {"failure": failure}
        self.status.enter(state, detail, engine=None, measured=self.recorder.measured, **changes)

    def close(self) -> None:
        """Close the files."""
        self.recorder.close()
        self.journal.write("the supervisor ends")
        self.journal.close()
