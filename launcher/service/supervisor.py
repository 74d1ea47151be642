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
import traceback
from collections.abc import Callable, Generator, Iterable

import msgspec

from launcher.errors import ExitCode, QlaunchError
from launcher.plan.types import Plan
from launcher.record.scrub import Scrubber
from launcher.service import endings, keys, notify, ports, process, procs
from launcher.service.health import Answer, seconds_since
from launcher.service.life import Life, engine_command
from launcher.service.loop import Loop, Timers
from launcher.service.machine import START, Budget
from launcher.service.recording import Recorder, cleaner
from launcher.service.status import Journal, Roll, Status, first_state
from launcher.service.store import Folder, Lock
from launcher.service.types import UP, Failure, ServiceState, State
from launcher.service.verifier import Verifier, verify_request
from launcher.service.wiring import Wiring
from launcher.verify.types import SmokeReport

_ORDER: dict[State, int] = {"starting": 0, "loading": 1, "warming": 2, "verifying": 3}


class Supervisor:
    """One service, from `up` to its end. `run` once, in the main thread."""

    def __init__(
        self,
        where: Folder,
        plan: Plan,
        wiring: Wiring,
        *,
        began: float | None = None,
        foreground: bool = False,
        on_change: Callable[[ServiceState], object] | None = None,
    ) -> None:
        """`began`: monotonic time at which the user asked for the service; now, if None."""
        self._where, self._plan, self._wiring = where, plan, wiring
        self._timing = wiring.timing
        self._began = time.monotonic() if began is None else began
        self._foreground = foreground
        self._on_change = on_change
        self._lock = Lock(where.lock)
        self._port_lock: Lock | None = None
        self._port = plan.port
        self._key: str | None = None
        self._budget = Budget(plan.restart)
        self._loop = Loop()
        self._life: Life | None = None
        self._verifier: Verifier | None = None
        self._timers = Timers(self._loop)
        self._ever_ready = False
        self._misses = 0
        self._goal: str = "run"
        self._failure: Failure | None = None
        self._delay = 0.0
        self._winding = False
        self._forced = False

    def run(self) -> ServiceState:
        """Run the service to its end and return its last state.

        Raises:
            QlaunchError: `already_running` (exit 9) if another supervisor has this service;
                `state_dir_unsafe`, `api_key_unusable`, `state_not_written`: nothing was started.
        """
        if not self._lock.acquire():
            raise QlaunchError(
                f"service {self._where.name!r} has a supervisor already",
                code="already_running",
                exit_code=ExitCode.CONFLICT,
                fix=f"qlaunch status {self._where.name}, or qlaunch down {self._where.name}",
            )
        try:
            self._prepare()  # before the first state: from then on, `down` may ask
            self._open()
            return self._run()
        finally:
            self._loop.close()
            self._lock.release()

    def _prepare(self) -> None:
        """Hear signals, adopt orphans, and leave behind what belongs to whoever started us."""
        self._loop.on_signals(
            {
                signal.SIGTERM: self._asked_to_stop,
                signal.SIGINT: self._interrupted,
                signal.SIGHUP: self._terminal_closed,
                signal.SIGCHLD: self._reap,
            }
        )
        notify.keep_watchdog(self._loop)
        process.become_subreaper()
        if not self._foreground:
            os.chdir(self._where.path)  # not to hold on to the folder that `up` was called in

    def _open(self) -> None:
        """Make the run record and publish the first state."""
        plan = self._plan
        path = plan.api_key_file
        self._key = keys.read_key(path) if path else None
        secrets = [self._key] if self._key else []
        self._scrub = Scrubber(secrets)
        self._clean = cleaner(self._scrub)
        self._journal = Journal(self._where, self._clean)
        self._roll = Roll(self._where, self._journal)
        try:
            if (me := procs.process_id(os.getpid())) is not None:
                self._lock.sign(me)
            self._recorder = Recorder(plan, self._began, secrets)
            self._status = Status(
                self._where,
                first_state(plan, self._recorder.run_id, self._recorder.measured, self._began),
                began=self._began,
                journal=self._journal,
                on_change=self._on_change,
            )
        except OSError as error:
            raise QlaunchError(
                f"cannot keep state in {self._where.path}: {error.strerror or error}",
                code="state_not_written",
                exit_code=ExitCode.UNEXPECTED,
                fix="free space there, or set QLAUNCH_HOME to another folder",
            ) from error
        self._recorder.phase("starting")
        self._journal.write(f"starting run {self._recorder.run_id}")

    def _run(self) -> ServiceState:
        try:
            self._start()
            while not self._status.final:
                self._loop.turn()
        except Exception as error:  # noqa: BLE001 - whatever it is, no engine may be left behind
            self._crashed(error)
        self._tidy()
        return self._status.now

    # Starting ---------------------------------------------------------------------------------

    def _start(self) -> None:
        """Begin one life of the engine."""
        try:
            self._take_port()
            self._spawn()
        except QlaunchError as error:
            self._end("failed", endings.from_error(error))
        except OSError as error:
            self._end("failed", endings.not_started(error, self._plan.engine.argv[0]))

    def _take_port(self) -> None:
        if self._port_lock is None:
            root = self._where.path.parent
            self._port, self._port_lock = ports.claim(root, self._plan.host, self._plan.port)
        ports.check_free(self._plan.host, self._port)

    def _spawn(self) -> None:
        if self._key is not None:
            keys.write_secrets_config(self._where.secrets_config, self._key)
        command = engine_command(
            self._plan,
            port=self._port,
            key=self._key,
            secrets_config=self._where.secrets_config,
            run=self._recorder.run_id,
            cwd=self._recorder.path,
        )
        self._misses = 0
        self._verifier = self._new_verifier()
        self._life = Life(
            self._loop,
            command,
            self,
            log=self._recorder.engine_log,
            clean=self._clean,
            timing=self._timing,
            others=self._not_the_engines,
        )
        self._status.change(
            engine=self._life.child.process,
            endpoint=ports.url(self._plan.host, self._port),
            engine_plan={**self._status.now.engine_plan, "argv": list(command.argv)},
            detail="the engine is starting",
        )
        self._roll.take(self._life.tree)
        self._recorder.begin_life(self._life.child.process.pid, self._roll.pids)
        self._timers.after("start", self._plan.start_timeout_s, self._start_timed_out)
        self._timers.after("sample", self._timing.poll_s, self._sample)

    def _new_verifier(self) -> Verifier:
        return Verifier(
            self._loop,
            self._wiring.verify_argv,
            verify_request(self._plan, ports.url(self._plan.host, self._port)),
            key=self._key,
            cwd=self._recorder.path,
            clean=self._scrub,
            log=self._journal.write,
            done=self._smoke_answered,
        )

    def _not_the_engines(self) -> Iterable[int]:
        return self._verifier.pids() if self._verifier is not None else ()

    def _start_timed_out(self) -> None:
        assert self._life is not None
        limit = self._plan.start_timeout_s
        phase, last = self._status.state, self._life.last_answer
        match = self._explain(phase, None)
        failure = endings.timed_out(limit, phase, last, match, str(self._recorder.log_path))
        self._start_failed(failure)

    def _start_failed(self, failure: Failure) -> None:
        """The first start is not repeated: what is wrong then is wrong again."""
        if self._ever_ready:
            self._restart(failure)
        else:
            self._end("failed", failure)

    # What a life tells (Owner of life.py) -----------------------------------------------------

    def life_phase(self, state: State, detail: str) -> None:
        """Phases only advance."""
        now = self._status.state
        if now in START and _ORDER[state] > _ORDER[now]:
            self._enter(state, detail)
        elif now == state and detail:
            self._status.change(detail=detail)

    def life_healthy(self) -> None:
        """Note when the engine was first healthy."""
        self._time("ready_s")
        self._recorder.event("healthy")

    def life_confirmed(self) -> None:
        """The engine is healthy and serves our model: let the smoke begin."""
        self._timers.cancel("start")
        self._enter("verifying", "the smoke is running")
        self._timers.after("verify", self._timing.verify_s, self._smoke_timed_out)
        assert self._verifier is not None
        self._verifier.go()

    def life_wrong(self, problem: str) -> None:
        """It serves something else: no restart will change that."""
        self._end("failed", endings.wrong_model(problem))

    def life_foreign(self) -> None:
        """Somebody took the port between our check and the engine's own bind."""
        error = ports.taken(self._plan.host, self._port, ports.holder(self._port))
        self._end("failed", endings.from_error(error))

    def life_beat(self, answer: Answer) -> None:
        """A health check of a service that was verified."""
        assert self._life is not None
        self._misses = 0 if answer.ok else self._misses + 1
        if answer.ok and self._status.state == "degraded":
            self._enter("ready", "health answers again")
        elif self._misses >= self._timing.beat_failures and self._status.state == "ready":
            self._enter("degraded", f"/health: {answer}")
        self._life.beat(self._timing.beat_s if answer.ok else self._timing.beat_s / 6)

    # The smoke --------------------------------------------------------------------------------

    def _smoke_answered(self, answer: SmokeReport | str) -> None:
        if self._status.state != "verifying":  # it ended before it was asked to begin
            self._smoke_failed(answer if isinstance(answer, str) else "the smoke began too soon")
        elif isinstance(answer, SmokeReport) and answer.ok:
            self._verified(answer)
        else:
            # An engine that dies under the smoke fails the smoke too: its death explains more.
            self._timers.after("verify", 0.3, lambda: self._smoke_failed(answer))

    def _verified(self, report: SmokeReport) -> None:
        assert self._life is not None
        self._timers.cancel("verify")
        self._ever_ready = True
        self._life.verified_at = time.monotonic()
        self._time("verified_s")
        self._recorder.verified()
        self._status.change(measured=self._recorder.measured)
        self._enter("ready", "verified", smoke=msgspec.to_builtins(report), failure=None)
        self._roll.take(self._life.tree)
        self._recorder.save(self._status.now)
        self._life.beat(self._timing.beat_s)

    def _smoke_failed(self, answer: SmokeReport | str) -> None:
        if isinstance(answer, SmokeReport):
            self._status.change(smoke=msgspec.to_builtins(answer))
        self._end("failed", endings.smoke_verdict(answer))

    def _smoke_timed_out(self) -> None:
        self._end("failed", endings.wedged(self._timing.verify_s))

    # Death and restart ------------------------------------------------------------------------

    def _reap(self) -> None:
        life, verifier = self._life, self._verifier
        children = [one.child for one in (life, verifier) if one is not None]
        leader = life.child.process.pid if life is not None else 0
        process.reap(children, lambda pid: life.tree.scan() if life and pid == leader else None)
        if life is not None and life.child.exited and not self._winding:
            self._engine_died(life)
        elif verifier is not None and verifier.child.exited:
            verifier.ended()

    def _engine_died(self, life: Life) -> None:
        assert life.child.returncode is not None
        life.close()
        phase, code = self._status.state, life.child.returncode
        match = self._explain(phase, code)
        failure = endings.died(code, phase, match, str(self._recorder.log_path))
        self._recorder.event("engine_ended", returncode=code, failure_class=failure.failure_class)
        self._recorder.keep_crash_log(life.text)
        self._start_failed(failure)

    def _explain(self, phase: State, returncode: int | None) -> endings.Match | None:
        assert self._life is not None
        try:
            return self._life.explain(self._wiring.classify, phase, returncode)
        except Exception as error:  # noqa: BLE001 - an explanation is not worth the service
            self._journal.write(f"the log could not be explained: {error}")
            return None

    def _restart(self, failure: Failure) -> None:
        assert self._life is not None
        self._budget.verified_for(self._life.verified_for)
        delay = self._budget.next_delay()
        if delay is None:
            limit = self._plan.restart.max_attempts
            self._end("failed", endings.gave_up(failure, limit) if limit else failure)
            return
        self._delay = delay
        detail = f"{failure.message}; starting again in {delay:.1f} s"
        restarts = self._status.now.restarts + 1
        self._enter("backoff", detail, restarts=restarts, failure=failure)
        self._end("restart")

    # Ending -----------------------------------------------------------------------------------

    def _asked_to_stop(self) -> None:
        self._end("stopped")

    def _terminal_closed(self) -> None:
        if self._foreground:
            self._asked_to_stop()

    def _interrupted(self) -> None:
        if self._goal == "stopped":
            self._forced = True
        self._end("stopped")

    def _end(self, goal: str, failure: Failure | None = None) -> None:
        """Wind the life down, once; of several reasons the strongest decides what comes after."""
        strength = ["run", "restart", "failed", "stopped"]
        if strength.index(goal) <= strength.index(self._goal):
            return
        self._goal = goal
        if failure is not None:
            self._failure = failure
            self._journal.write(f"failing: {failure.message}")
        if goal != "restart" and self._status.state != "stopping":
            detail = failure.message if failure else "asked to stop"
            self._enter("stopping", detail)
        if not self._winding:
            self._winding = True
            self._loop.drive(self._wind())

    def _wind(self) -> Generator[float, None, None]:
        self._timers.cancel_all()
        if self._verifier is not None:
            self._verifier.close()
        report = process.StopReport()
        life = self._life
        if life is not None:
            life.is_quiet()
            report = yield from process.stop(
                life.child,
                life.tree,
                patience=self._timing.patience,
                forced=lambda: self._forced,
                proofs=(self._port_held,),
            )
            life.close()
        self._life = self._verifier = None
        self._recorder.end_life()
        self._wound_down(report)

    def _port_held(self) -> str | None:
        try:
            ports.check_free(self._plan.host, self._port)
        except QlaunchError as error:
            # Where the port was lost to somebody else, that is the failure, not a leftover.
            foreign = self._failure is not None and self._failure.code == "port_taken"
            return None if foreign else error.message
        return None

    def _wound_down(self, report: process.StopReport) -> None:
        for step in report.steps:
            self._journal.write(step)
            self._recorder.event("stop_step", text=step)
        self._winding = False
        goal, self._goal = self._goal, "run"
        if report.left:
            left = endings.left_over(report.left)
            self._finish("failed", self._with_leftovers(left))
        elif goal == "restart":
            self._timers.after("restart", self._delay, self._again)
        elif goal == "failed":
            self._finish("failed", self._failure)
        else:
            self._finish("stopped", None, "; ".join(report.steps))

    def _with_leftovers(self, left: Failure) -> Failure:
        if self._failure is None:
            return left
        message = f"{self._failure.message}; {left.message}"
        return msgspec.structs.replace(self._failure, message=message)

    def _again(self) -> None:
        self._enter("starting", f"restart {self._status.now.restarts}", engine=None)
        self._start()

    def _finish(self, state: State, failure: Failure | None, detail: str = "") -> None:
        self._timers.cancel_all()
        if failure is not None:
            detail = failure.message
        self._where.secrets_config.unlink(missing_ok=True)
        self._where.tree.unlink(missing_ok=True)
        self._recorder.phase(state)
        self._recorder.finish(state, self._status.now, failure)
        changes = {} if failure is None else {"failure": failure}
        self._status.enter(state, detail, engine=None, measured=self._recorder.measured, **changes)

    def _crashed(self, error: Exception) -> None:
        """A fault of ours: end the engine the hard way, say what happened, and go."""
        self._journal.write("".join(traceback.format_exception(error)))
        if self._verifier is not None:
            self._verifier.close()
        if self._life is not None:
            members = self._life.tree.scan()
            process.reap([self._life.child], lambda _: None)
            process.kill_leftovers(members)
        if not self._status.final:
            self._finish("failed", endings.internal(error, str(self._where.log)))

    def _tidy(self) -> None:
        if self._port_lock is not None:
            self._port_lock.release()
        self._recorder.close()
        self._journal.write("the supervisor ends")
        self._journal.close()

    # Keeping records --------------------------------------------------------------------------

    def _enter(self, state: State, detail: str, **changes: object) -> None:
        self._recorder.phase(state)
        self._status.enter(state, detail, **changes)

    def _time(self, name: str) -> None:
        """Note a time since `up`, the first time."""
        if self._status.now.timings.get(name) is None:
            taken = {**self._status.now.timings, name: seconds_since(self._began)}
            self._status.change(timings=taken)

    def _sample(self) -> None:
        """Look at the tree, measure it, and publish peaks that grew."""
        if not self._where.path.is_dir():  # removed by somebody: nobody could find us any more
            self._end("stopped")
            return
        if self._life is not None:
            self._roll.take(self._life.tree)
        delay = self._recorder.sample(ready=self._status.state in UP)
        self._status.change(measured=self._recorder.measured)
        self._timers.after("sample", delay, self._sample)
