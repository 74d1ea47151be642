"""The supervisor: the one process that owns a service.

It starts the engine, watches it, has it verified, samples it, starts it again when it dies, stops
it when asked, and is the only one to write the service's state (contract: machine.py). It has no
threads and no locks: one loop, events in, calls out (loop.py). Signals ask: SIGTERM and SIGINT
for an orderly stop, once however often they come; a second SIGINT for SIGKILL.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable

import msgspec

from launcher import log_lines
from launcher.documents.failure import Failure
from launcher.documents.plan import Plan
from launcher.documents.service_state import START, UP, ServiceState, State
from launcher.documents.smoke import SmokeReport
from launcher.errors import QlaunchError
from launcher.linux.processes import ProcessId
from launcher.service import failures, process_tree, succession
from launcher.service.store import Folder
from launcher.service.supervisor import stopping
from launcher.service.supervisor.batch_counter import BatchCounter
from launcher.service.supervisor.cache_gateway import CacheGateway
from launcher.service.supervisor.engine_life import Command, EngineLife
from launcher.service.supervisor.event_loop import Call
from launcher.service.supervisor.fallback_steps import FallbackSteps
from launcher.service.supervisor.liveness import Verdict
from launcher.service.supervisor.resources import PortReservation
from launcher.service.supervisor.smoke_round import SmokeRound
from launcher.service.supervisor.start_limits import StartLimits
from launcher.service.supervisor.states import RestartBudget
from launcher.service.supervisor.template import Template
from launcher.service.supervisor.timing import Dependencies
from launcher.service.supervisor.winding import Winding

_PATIENCE = 4
"""Waits for the end of an engine whose traceback is still being written."""


class Supervisor(Winding):
    """One service, from `up` to its end."""

    def __init__(
        self,
        where: Folder,
        plan: Plan,
        wiring: Dependencies,
        *,
        began: float | None = None,
        foreground: bool = False,
        on_change: Callable[[ServiceState], object] | None = None,
    ) -> None:
        """`began`: monotonic time at which the user asked for the service; now, if None."""
        super().__init__(where, wiring, began=began, foreground=foreground, on_change=on_change)
        self._chain = FallbackSteps(plan)
        self._holders = PortReservation(
            where, plan.engine_host, plan.engine_port, movable=plan.movable
        )
        self._budget = RestartBudget(plan.restart)
        self._life: EngineLife | None = None
        self._limits = StartLimits(
            self._timers,
            self._timing,
            lambda: self._life.stalled_for() if self._life is not None else 0.0,
            self._start_timed_out,
        )
        self._gateway: CacheGateway | None = None
        self._ill = ""
        self._ever_ready = False
        self._hurry = False
        self._report = SmokeReport(ok=False, checks=())
        self._delay = 0.0

    @property
    def _plan(self) -> Plan:
        """What to run now: as it was asked for, or with less after memory failures."""
        return self._chain.plan

    def _open(self) -> None:
        records = self.records
        self._template = Template(self._loop, records.journal.write, records.template)
        self._template.inherit(os.environ)
        if not self._plan.template:
            self._template.forget()
        self._smoke = SmokeRound(self._loop, self.wiring, records, self)
        if self._plan.cache is not None:
            place = (self._loop, self._where, self._plan)
            self._gateway = CacheGateway(*place, self.wiring, records, self, self)

    def _signals(self) -> dict[int, Call]:
        asked: dict[int, Call] = {succession.ASK: self._to_be_succeeded}
        return super()._signals() | ({} if self._foreground else asked)

    def _to_be_succeeded(self) -> None:
        """A command restarts the service, and will name our successor."""
        if not succession.is_asked(self._where):
            self.records.journal.write("SIGUSR2 without a command that restarts: ignored")
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, {succession.ASK})  # the next is waited for
        self._end("succeeded")

    def bequest(self) -> dict[str, str] | None:
        """The template, after a stop that was asked for by `succession`."""
        return self._template.bequeath() or None if self._has_heir else None

    def _traffic(self) -> BatchCounter | None:
        return None if self._life is None else self._life.traffic

    # Starting ---------------------------------------------------------------------------------

    def _start(self) -> None:
        """Begin one life of the engine."""
        try:
            for reservation in self._ports()[: 1 if self._gateway and self._gateway.runs else 2]:
                reservation.take_port()
            self._spawn()
        except QlaunchError as error:
            self._end("failed", failures.from_error(error))
        except OSError as error:
            engine = self._plan.engine
            program = engine.python if self._plan.template else engine.argv[0]
            self._end("failed", failures.not_started(error, program, engine=True))

    def _spawn(self) -> None:
        command = self.records.command(self._plan, self._holders.port)
        self._smoke.prepare(self._plan, self._holders.url)
        self._life = EngineLife(
            self._loop,
            command,
            self,
            log=self._recorder.engine_log,
            clean=self.records.clean,
            timing=self._timing,
            others=self._not_the_engines,
            start=self._born,
        )
        self.status.change(
            engine=self._life.child.process,
            endpoint=self._ports()[-1].url,
            engine_endpoint=None if self._gateway is None else self._holders.url,
            engine_plan=msgspec.structs.replace(self.status.now.engine_plan, argv=command.argv),
            detail="the engine is starting",
        )
        self.records.roll.begin()
        self._look_at_tree(self._life)
        self._recorder.begin_life(self._life.child.process.pid, self.records.roll.measured)
        self._limits.begin(self._plan)
        self._timers.after("sample", self._timing.poll_s, self._sample)

    def _born(self, command: Command) -> process_tree.Child:
        child = self._template.start(command, self._plan)
        if child.handle is None and not self._ever_ready:
            self._recorder.forked()  # from a template that was inherited
        return child

    def _not_the_engines(self) -> Iterable[int]:
        others = (self._template, self._smoke, self._gateway)
        return [pid for each in others if each is not None for pid in each.pids()]

    def _start_timed_out(self, limit: str) -> None:
        assert self._life is not None
        phase, last = self.status.state, self._life.last_answer
        match = self._explain(phase, None)
        failure = failures.timed_out(limit, phase, last, match, self.records.log_path)
        self._start_failed(failure)

    def _start_failed(self, failure: Failure) -> None:
        """The first start is repeated with less memory, or on another port where any would do:
        what else is wrong stays wrong."""
        failure = self._holders.named(failure, self.records.roll, self._recorder)
        if self._chain.offers(failure):
            self._fall_back(failure)
        elif failure.code == "port_taken" and self._holders.move(known=self._ever_ready):
            self._delay = 0.0
            self.records.moved(failure)
            self._end("restart")
        elif self._ever_ready:
            self._restart(failure)
        else:
            self._end("failed", failure)

    def _fall_back(self, failure: Failure) -> None:
        """Start again with the profile's next step."""
        taken = self._chain.take(failure)
        self._delay = self._plan.restart.backoff_initial_s
        self.records.fell_back(taken, self._plan, failure)
        self._end("restart")

    # What a life tells (Owner of life.py) -----------------------------------------------------

    def life_phase(self, state: State, detail: str) -> None:
        """Phases only advance."""
        now = self.status.state
        if now in START and START.index(state) > START.index(now):
            self.records.enter(state, detail)
        elif now == state and detail:
            self.status.change(detail=detail)

    def life_healthy(self) -> None:
        """Note when the engine was first healthy."""
        self.records.time("ready_s")
        self._recorder.event("healthy")

    def life_confirmed(self) -> None:
        """The engine is healthy and serves our model: let the smoke begin."""
        self._limits.end()
        self.records.enter("verifying", "the smoke is running")
        self._smoke.go()

    def life_wrong(self, failure: Failure) -> None:
        """It is not what was to be started: no restart will change that."""
        self._end("failed", failure)

    def life_foreign(self) -> None:
        """Somebody took the port between our check and the engine's own bind."""
        self._start_failed(self._holders.port_taken())

    def life_beat(self, verdict: Verdict, detail: str) -> None:
        """A look at a service that was verified."""
        assert self._life is not None
        self.records.checked(self._life.latency_ms, self._life.cosine)
        if verdict in {"well", "ill"}:
            self._ill = detail if verdict == "ill" else ""
            self.weigh()
        elif verdict == "wedged":
            self._give_up_on(failures.hung(detail, self.records.log_path))
        elif verdict == "odd":
            self._recorder.event("odd_vector", detail=detail)
        elif verdict == "drifted":
            self.records.drifted(detail)  # no restart: it would hide that somebody changed it
            self._hurry = True  # until its end it answers with wrong vectors
            self._end("failed", failures.drifted(detail, self._where.name))

    def weigh(self) -> None:
        """Say whether the service is well: its engine, and the gateway before it."""
        complaint = self._ill or ("" if self._gateway is None else self._gateway.complaint)
        if complaint and self.status.state == "ready":
            self.records.enter("degraded", complaint)
        elif not complaint and self.status.state == "degraded":
            self.records.enter("ready", "its checks pass again")

    def life_ailing(self, line: str) -> None:
        """It says that it is lost: it may end by itself and tell why, but not take its time."""
        if not self._winding:
            self._wait_for_its_end(line, _PATIENCE)

    def _wait_for_its_end(self, line: str, patience: int) -> None:
        def over() -> None:
            assert self._life is not None
            self._life.drain()
            if patience > 1 and log_lines.in_traceback(self._life.text):
                self._wait_for_its_end(line, patience - 1)  # the exception comes last
            else:
                self._lost(lambda match: failures.ailing(line, match))

        self._timers.after("ailing", self._timing.ailing_s, over)

    def life_worker_died(self, role: str, process: ProcessId) -> None:
        """SGLang's front would hang every request for a minute more."""
        if not self._winding:
            self._recorder.event("limb_died", role=role, pid=process.pid)
            reason = f"the engine's {role} (process {process.pid}) died"
            self._timers.after("ailing", self._timing.limb_s, lambda: self._lost(lambda _: reason))

    def _lost(self, reason: Callable[[failures.Match | None], str]) -> None:
        """A life that cannot be saved, though its leader still runs."""
        assert self._life is not None
        self._life.drain()
        phase = self.status.state
        match = self._explain(phase, None)
        self._give_up_on(failures.lost(reason(match), phase, match, self.records.log_path))

    def _give_up_on(self, failure: Failure) -> None:
        """End an engine that will not end by itself, soon, and go on as if it had died."""
        assert self._life is not None
        self._recorder.event("given_up", failure_class=failure.failure_class)
        self._recorder.keep_crash_log(self._life.text)
        self._hurry = True
        self._start_failed(failure)

    # The smoke --------------------------------------------------------------------------------

    def smoke_failed(self, failure: Failure) -> None:
        """The vectors are not right, or nobody could tell."""
        self._end("failed", failure)

    def smoke_passed(self, report: SmokeReport) -> None:
        """The vectors are right: what stands before the engine may begin."""
        self._report, self._ill = report, ""
        if self._gateway is None:
            self.gateway_proved()
        else:
            self.status.change(detail="the gateway is starting")
            self._gateway.begin(self._plan, self._holders.url, self._smoke.proved)

    def gateway_failed(self, failure: Failure) -> None:
        """The gateway does not come up (again), or gives another vector."""
        self._end("failed", failure)

    def gateway_proved(self) -> None:
        """The vectors are right, and so is what stands before the engine."""
        if self._life is None or self.status.state != "verifying":
            return
        self._ever_ready = True
        self._life.verified_at = time.monotonic()
        self.records.time("verified_s")
        self._recorder.verified()
        self._look_at_tree(self._life)  # before it is told: whoever hears it may kill a part
        self.records.verified(self._report)
        self._life.begin_pulse(self._smoke.proved)

    # Death and restart ------------------------------------------------------------------------

    def _reap(self) -> None:
        life, verifier, gateway = self._life, self._smoke.process, self._gateway
        children = [one.child for one in (life, verifier) if one is not None]
        children += [] if gateway is None else gateway.children()
        leader = life.child.process.pid if life is not None else 0
        process_tree.reap(
            children, lambda pid: life.tree.scan() if life and pid == leader else None
        )
        if life is not None and life.child.exited and not self._winding:
            self._engine_died(life)
        elif verifier is not None and verifier.child.exited:
            verifier.ended()
        if gateway is not None:
            gateway.reaped()

    def _engine_died(self, life: EngineLife) -> None:
        assert life.child.returncode is not None
        life.close()
        phase, code = self.status.state, life.child.returncode
        match = self._explain(phase, code)
        failure = failures.died(code, phase, match, self.records.log_path)
        self._recorder.event("engine_ended", returncode=code, failure_class=failure.failure_class)
        self._recorder.keep_crash_log(life.text)
        self._start_failed(failure)

    def _explain(self, phase: State, returncode: int | None) -> failures.Match | None:
        assert self._life is not None
        try:
            return self._life.explain(self.wiring.classify, phase, returncode)
        except Exception as error:  # noqa: BLE001 - an explanation is not worth the service
            self.records.journal.write(f"the log could not be explained: {error}")
            return None

    def _restart(self, failure: Failure) -> None:
        assert self._life is not None
        self._budget.verified_for(self._life.verified_for)
        delay = self._budget.next_delay()
        if delay is None:
            limit = self._plan.restart.max_attempts
            self._end("failed", failures.gave_up(failure, limit) if limit else failure)
            return
        self._delay = delay
        detail = f"{failure.message}; starting again in {delay:.1f} s"
        restarts = self.status.now.restarts + 1
        self.records.enter("backoff", detail, restarts=restarts, failure=failure)
        self._end("restart")

    def _kill(self) -> None:
        stopping.kill(self._life, self._smoke.process, self._gateway)
        self._template.forget()

    # Keeping records --------------------------------------------------------------------------

    def _look_at_tree(self, life: EngineLife) -> None:
        self.records.roll.take(life.tree)
        life.workers.look(self.records.roll.members)

    def _sample(self) -> None:
        """Look at the tree, measure it, and publish peaks that grew."""
        if self._life is not None:
            self._look_at_tree(self._life)
            self.records.halted(self._life.workers.halted() or self._smoke.halted())
        delay = self._recorder.sample(ready=self.status.state in UP)
        self._timers.after("sample", delay, self._sample)
        self.status.change(measured=self._recorder.measured)
