"""One life of the engine: from its start to its end, as far as it can be seen from outside.

Readiness in this order: our child is alive and its tree owns the port, `/health` says 200, the
model information names our model as an embedder. The smoke comes after that (supervisor.py).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from launcher import child_environment
from launcher.documents.failure import Failure
from launcher.documents.plan import Plan
from launcher.documents.service_state import State
from launcher.linux import oom, processes
from launcher.linux.processes import ProcessId
from launcher.paths import dirs
from launcher.service import failures, ports, process_tree
from launcher.service.failures import Classify, Match
from launcher.service.recover import MARKER
from launcher.service.supervisor import http_probe
from launcher.service.supervisor.batch_counter import BatchCounter
from launcher.service.supervisor.drift import Numbers, Proof
from launcher.service.supervisor.engine_environment import engine_environment
from launcher.service.supervisor.engine_log import (
    LogFile,
    Pump,
    hear,
    is_fatal,
    let_go,
    phase_of,
)
from launcher.service.supervisor.event_loop import Loop, Timer
from launcher.service.supervisor.http_probe import HttpAnswer, HttpProbe
from launcher.service.supervisor.liveness import Verdict
from launcher.service.supervisor.liveness_probe import LivenessProbe
from launcher.service.supervisor.timing import Timing
from launcher.service.supervisor.worker_watch import EngineWorkers

STALLED_CORES = 0.05
"""Less than that of one core, and a start does not get on: loading takes most of one."""
RUN_HEADER = "X-Qlaunch-Run"
"""By it the guard answers the supervisor's own calls however busy the engine is."""
HALTS_S = 2.0
"""Between two looks for parts that were stopped: a line of /proc each."""
OLD_MODEL_INFO = "/get_model_info"
"""What /model_info was called before SGLang 0.5.6."""


@dataclass(frozen=True, slots=True)
class Command:
    """What one life runs."""

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: Path
    host: str
    port: int
    model_path: str
    model_info_path: str
    model_name: str
    dimensions: int
    dtype: str
    replicas: int
    key: str | None
    run: str = ""
    guarded: bool = False
    """Whether the engine's answers must bear the guard's mark."""


def engine_command(
    plan: Plan,
    *,
    port: int,
    key: str | None,
    secrets_config: Path,
    run: str,
    cwd: Path,
    scratch: Path,
) -> Command:
    """What a life of `plan` runs, with the placeholders of its argv filled in."""
    own = child_environment.for_engines(
        os.environ, dirs().cache, [plan.engine_host, ports.reach(plan.engine_host)]
    )
    own["TMPDIR"] = str(scratch)
    filled = {"{port}": str(port), "{secrets_config}": str(secrets_config)}
    return Command(
        argv=tuple(filled.get(word, word) for word in plan.engine.argv),
        env=engine_environment(os.environ, plan.engine.env, (MARKER, run), own),
        cwd=cwd,
        host=plan.engine_host,
        port=port,
        model_path=plan.model_path,
        model_info_path=plan.engine.model_info_path,
        model_name=plan.model_name,
        dimensions=plan.expectation.dimensions,
        dtype=plan.expectation.dtype,
        replicas=plan.expectation.replicas,
        key=key,
        run=run,
        guarded=plan.guard is not None,
    )


class Owner(Protocol):
    """Who is told of a life's events: the supervisor."""

    def life_phase(self, state: State, detail: str) -> None:
        """It is further on, or says something new."""

    def life_healthy(self) -> None:
        """`/health` said 200 for the first time."""

    def life_confirmed(self) -> None:
        """The model is ours: the smoke may begin."""

    def life_wrong(self, failure: Failure) -> None:
        """It serves something else than what was started, or without its guard."""

    def life_foreign(self) -> None:
        """Somebody else answers on the port."""

    def life_beat(self, verdict: Verdict, detail: str) -> None:
        """A look at it after `ready`: how it is, and what its checks said where one failed."""

    def life_ailing(self, line: str) -> None:
        """Its log says that it will not serve any more, for the first time."""

    def life_worker_died(self, role: str, process: ProcessId) -> None:
        """Its scheduler or detokenizer has ended; the leader may not have."""


class EngineLife:
    """The engine's process tree, its output and its health, while it lives."""

    def __init__(
        self,
        loop: Loop,
        command: Command,
        owner: Owner,
        *,
        log: LogFile,
        clean: Callable[[str], str],
        timing: Timing,
        others: Callable[[], Iterable[int]],
        start: Callable[[Command], process_tree.Child],
    ) -> None:
        """Start it, by `start`.

        Raises:
            OSError: the engine cannot be started.
        """
        self._loop, self._command, self._owner = loop, command, owner
        self._timing = timing
        self._address = (ports.reach(command.host), command.port)
        self._paths = [command.model_info_path, OLD_MODEL_INFO]
        self._probe: HttpProbe | None = None
        self._timer: Timer | None = None
        self._pulse: LivenessProbe | None = None
        self._healthy = self._ailing = self._doubted = False
        self._halted = ""
        self._ooms = oom.oom_kills()
        self.last_answer = "no answer yet"
        self.verified_at: float | None = None
        self.child = start(command)
        marker = f"{MARKER}={command.env.get(MARKER, '')}"
        self.tree = process_tree.Tree(self.child.process, others, marker=marker)
        self.traffic = BatchCounter()
        self.workers = EngineWorkers(loop, self.child.process, owner.life_worker_died)
        self.heard_at = time.monotonic()
        """When it last logged anything."""
        margin = len(command.key or "")
        self._pump = Pump(log.write, clean=clean, margin=margin, on_line=self._line)
        loop.watch(self.child.output, self._readable)
        self._again()

    @property
    def text(self) -> str:
        """The first and last of its output, clean."""
        return self._pump.excerpt.text

    def explain(self, classify: Classify, phase: State, returncode: int | None) -> Match | None:
        """What the log and the kernel's counters say of this life's end."""
        now = oom.oom_kills()
        grew = now is not None and self._ooms is not None and now > self._ooms
        # The counter may be the whole machine's: it speaks of this engine only if it was killed.
        # None: its leader still runs, but a process below it was lost.
        killed = grew and returncode in {None, -signal.SIGKILL, 128 + signal.SIGKILL}
        return classify(self.text, phase=phase, returncode=returncode, oom_killed=killed)

    @property
    def verified_for(self) -> float:
        """Seconds since its smoke passed; 0 if it has not."""
        return 0.0 if self.verified_at is None else time.monotonic() - self.verified_at

    def is_quiet(self) -> None:
        """Ask nothing more: it is being stopped, or has ended."""
        self.workers.close()
        if self._pulse is not None:
            self._pulse.stop()
            self._pulse = None
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def drain(self) -> None:
        """Read what its output holds now."""
        if self.child.output >= 0:
            self._readable()

    def close(self) -> None:
        """Take the last of its output, and let go of the pipe.

        Without waiting for its end: a process that left the tree may hold it open for ever.
        """
        self.is_quiet()
        let_go(self.child, self._pump, self._loop)

    def begin_pulse(self, proved: Numbers | None) -> None:
        """It is verified: look at it from now on. `proved`: the beat's text, as it was verified."""
        command = self._command
        self._pulse = LivenessProbe(
            self._loop,
            self._timing,
            ask=self._call,
            workers=self.workers,
            model=command.model_name,
            replicas=command.replicas,
            proof=Proof(proved, dimensions=command.dimensions, dtype=command.dtype),
            tell=self._told,
        )
        self._loop.call_later(HALTS_S, self._look_for_halts)

    def _look_for_halts(self) -> None:
        """See whether somebody has stopped a part (SIGSTOP): the beat would take a minute."""
        if self._pulse is None:
            return
        self._loop.call_later(HALTS_S, self._look_for_halts)
        before, self._halted = self._halted, self.workers.halted()
        if self._halted and not before:
            self._owner.life_beat("ill", self._halted)
        elif before and not self._halted:
            self._pulse.hurry()

    def _told(self, verdict: Verdict, detail: str) -> None:
        """A beat's verdict; nothing that one part alone answers makes a halted engine well."""
        if self._halted and verdict in {"well", "busy", "doubtful"}:
            verdict, detail = "ill", self._halted
        self._owner.life_beat(verdict, detail)

    @property
    def latency_ms(self) -> float | None:
        """Of the last right answer to an embedding of our own; None before the first."""
        return None if self._pulse is None else self._pulse.latency_ms

    @property
    def cosine(self) -> float | None:
        """Of that answer with the vector that was verified."""
        return None if self._pulse is None else self._pulse.cosine

    def stalled_for(self) -> float:
        """Seconds since it was last seen doing anything: a log line, or CPU time."""
        if self.workers.cores(self.tree.scan()) >= STALLED_CORES:
            self.heard_at = time.monotonic()
        return time.monotonic() - self.heard_at

    def _readable(self) -> None:
        hear(self.child, self._pump, self._loop)

    def _line(self, line: str) -> None:
        self.heard_at = time.monotonic()
        if not self._healthy and (state := phase_of(line)) is not None:
            self._owner.life_phase(state, "")
        self.traffic.read(line)
        if self._pulse is not None:
            self._pulse.signs.read(line)
        if not self._ailing and is_fatal(line, starting=not self._healthy):
            self._ailing = True
            self._owner.life_ailing(line)

    def _again(self) -> None:
        self._timer = self._loop.call_later(self._timing.poll_s, self._ask_health)

    def _get(self, path: str, done: Callable[[HttpAnswer], object]) -> None:
        self._call(path, b"", self._timing.health_timeout_s, done)

    def _call(
        self, path: str, body: bytes, timeout_s: float, done: Callable[[HttpAnswer], object]
    ) -> None:
        headers = {RUN_HEADER: self._command.run} if self._command.guarded else {}
        if self._command.key is not None:
            headers["Authorization"] = self._bearer
        self._probe = HttpProbe(
            self._loop,
            self._address,
            path,
            done=done,
            headers=headers,
            body=body,
            connected=self._is_ours,
            timeout_s=timeout_s,
        )

    @property
    def _bearer(self) -> str:
        return f"Bearer {self._command.key}"

    def _is_ours(self) -> bool:
        """Whether the listener is of our tree, as far as the kernel tells."""
        pids = [member.pid for member in self.tree.scan()]
        command = self._command
        return ports.ownership(pids, command.host, command.port) != "foreign"

    def _ask_health(self) -> None:
        self._get("/health", self._health)

    def _health(self, answer: HttpAnswer) -> None:
        self.last_answer = str(answer)
        self._doubted = self._doubted and answer.kind == "foreign"
        if answer.kind == "foreign":
            self._foreign()
        elif answer.kind == "http" and self._command.guarded and not answer.guarded:
            self._owner.life_wrong(failures.unguarded())
        elif answer.ok:
            if not self._healthy:
                self._healthy = True
                self._owner.life_healthy()
            self._ask_model()
        else:
            if answer.kind == "http":
                self._owner.life_phase("warming", f"/health: {answer}")
            self._again()

    def _foreign(self) -> None:
        """Look once more before somebody else is said to have the port.

        A process that is killed has let go of its descriptors before the kernel closes its
        listener, and only then counts as ended: for that moment the listener is nobody's.
        """
        if self._doubted and processes.is_alive(self.child.process):
            self._owner.life_foreign()
        else:
            self._doubted = True
            self._again()

    def _ask_model(self) -> None:
        self._get(self._paths[0], self._model)

    def _model(self, answer: HttpAnswer) -> None:
        self.last_answer = f"{self._paths[0]}: {answer}"
        if answer.kind == "foreign":
            self._foreign()
        elif answer.status == 404 and len(self._paths) > 1:
            del self._paths[0]
            self._ask_model()
        elif answer.kind == "http" and answer.status in {401, 403, 404}:
            self._wrong(f"{self._paths[0]} answers {answer}")
        elif not answer.ok:
            self._again()
        elif (problem := http_probe.model_problem(answer, self._command.model_path)) is not None:
            self._wrong(problem)
        else:
            self._owner.life_confirmed()

    def _wrong(self, problem: str) -> None:
        self._owner.life_wrong(failures.wrong_model(problem))
