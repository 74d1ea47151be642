"""The gateway before an engine or a set of them: started, proved, watched, restarted.

It is started when the engine was proved right, and the service is ready once the gateway gives the
very vector that was proved. When it dies the engine stays: the service is degraded, and the gateway
starts again after a pause that doubles. A new life of the engine gets a new gateway.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from typing import Literal, Protocol
from urllib.parse import urlsplit

import msgspec

from launcher.documents.failure import Failure
from launcher.documents.gateway import (
    Drained,
    GatewayEvent,
    GatewayRequest,
    Listening,
    Refused,
    Resting,
    Rotation,
    Server,
    Wanted,
)
from launcher.documents.plan import Plan
from launcher.documents.run import CacheUse
from launcher.errors import QlaunchError
from launcher.linux import processes
from launcher.service import failures
from launcher.service.process_tree import Child
from launcher.service.store import Folder
from launcher.service.supervisor import gateway_process, http_probe
from launcher.service.supervisor.drift import Numbers, Proof
from launcher.service.supervisor.event_loop import Loop, Timers
from launcher.service.supervisor.gateway_process import GatewayProcess
from launcher.service.supervisor.http_probe import HttpAnswer
from launcher.service.supervisor.idle_stop import IdleStop, in_use
from launcher.service.supervisor.records import ServiceRecords
from launcher.service.supervisor.resources import PortReservation
from launcher.service.supervisor.states import RestartBudget
from launcher.service.supervisor.timing import Dependencies


class GatewayOwner(Protocol):
    """Who is told of the gateway: the supervisor."""

    def gateway_proved(self) -> None:
        """It gives the vector that was proved: the service can be asked."""

    def gateway_failed(self, failure: Failure) -> None:
        """It will not come up, or gives another vector."""

    def weigh(self) -> None:
        """`complaint` has changed."""


class EngineStops(Protocol):
    """Who stops and starts the one engine behind a gateway: its supervisor."""

    def engine_unneeded(self, after_s: float) -> bool:
        """No request needs the engine, and none will be sent to it; whether it is stopped."""

    def engine_wanted(self) -> None:
        """A request waits for the engine that was stopped."""


class CacheGateway:
    """The gateway of one service, through all lives of it and of the engine."""

    def __init__(
        self,
        loop: Loop,
        where: Folder,
        plan: Plan,
        wiring: Dependencies,
        records: ServiceRecords,
        owner: GatewayOwner,
        stops: EngineStops | None = None,
    ) -> None:
        """Nothing is started; the plan asks for a cache, or for replicas."""
        self._loop, self._wiring, self._timing = loop, wiring, wiring.timing
        self._records, self._owner, self._log = records, owner, records.log_path
        self._service = plan.service
        self._timers = Timers(loop)
        self.port = PortReservation(where, plan.host, plan.port)
        self.complaint = ""
        """Why it does not serve, though it did; empty: it does, or never has."""
        self._life: GatewayProcess | None = None
        self._request: GatewayRequest | None = None
        self._proof: Proof | None = None
        self._proved: Numbers | None = None
        self._budget = RestartBudget(plan.restart)
        self._fault: Failure | None = None
        self._ready_at: float | None = None
        self._ever = self._stopping = False
        self.wants_engine = False
        """A request waits for an engine that is stopped, or being stopped."""
        self._stops = stops
        cache = None if stops is None else plan.cache
        self._idle = IdleStop(None if cache is None else cache.idle_stop_s)
        self._resting: Literal["no", "asked", "heard", "yes"] = "no"
        """Whether the gateway was told to begin no call to the engine, has heard it, and the engine
        was then stopped."""
        self._misses = 0
        self._told = True
        self.drained: dict[str, int] = {}
        """By server that has left and finished: the serial of the rotation by which it left."""
        self._before, self._begin = CacheUse(), CacheUse()
        """Of the lives before this one; what this one's counts were when it was proved."""

    # Its start --------------------------------------------------------------------------------

    def begin(self, plan: Plan, engine: str, proved: Numbers | None) -> None:
        """Have it before an engine (`http://host:port/v1`) whose beat's vector was `proved`.

        One that waits for an engine goes on, another is started.
        """
        slim = _without_words(plan)
        self._request = GatewayRequest(
            plan=slim, port=self.port.port, engine=engine, key=self._records.key
        )
        self._proved = proved
        self._stopping = self.wants_engine = False
        self._resting = "no"
        self._idle.begin()
        if self._life is None or self._life.child.exited:
            self._start()
        else:
            self._resume(engine)

    def begin_before(self, plan: Plan, servers: Sequence[Server], proved: Numbers | None) -> None:
        """Start it before a set, each replica of which gives the vector that was `proved`."""
        self._request = GatewayRequest(
            plan=_without_words(plan),
            port=self.port.port,
            rotation=Rotation(serial=0, servers=tuple(servers)),
            key=self._records.key,
        )
        self._proved, self._stopping = proved, False
        self._start()

    def replan(self, plan: Plan) -> None:
        """Have the next gateway, should this one die, know this plan."""
        assert self._request is not None
        self._request = msgspec.structs.replace(self._request, plan=_without_words(plan))

    def rotate(self, servers: Sequence[Server]) -> int:
        """From now on these are the servers; the serial by which it is told so.

        To be called again and again: it is told once, and again where it did not read.
        """
        assert self._request is not None
        assert self._request.rotation is not None
        now = self._request.rotation
        if tuple(servers) != now.servers:
            now = Rotation(serial=now.serial + 1, servers=tuple(servers))
            # The next gateway, should this one die, begins with them.
            self._request = msgspec.structs.replace(self._request, rotation=now)
            self._told = False
        if not self._told and self._life is not None:
            self._told = self._life.rotate(now)
        return now.serial

    @property
    def runs(self) -> bool:
        """Whether its process has the service's port."""
        return self._life is not None

    def _prepare_proof(self) -> None:
        assert self._request is not None
        plan = self._request.plan
        dtype, dimensions = plan.expectation.dtype, plan.expectation.dimensions
        self._proof = Proof(self._proved, dimensions=dimensions, dtype=dtype)
        self._fault = None

    def _resume(self, engine: str) -> None:
        """The engine is back and proved: the requests that wait go to it."""
        assert self._life is not None
        self._life.tell(engine)
        if self._ready_at is None:  # it is itself coming up, and will be proved
            self._prepare_proof()
        else:
            self._owner.gateway_proved()

    def _start(self) -> None:
        assert self._request is not None
        self._prepare_proof()
        self._ready_at = None
        self._told = True
        self.drained.clear()
        argv = self._wiring.gateway_argv
        try:
            self.port.take_port()
            self._life = GatewayProcess(
                self._loop,
                argv,
                self._request,
                run=self._records.recorder.run_id,
                cwd=self._records.path,
                clean=self._records.clean,
                log=self._records.recorder.engine_log.write,
                heard=self._heard,
            )
        except QlaunchError as error:
            self._lost(failures.from_error(error))
            return
        except OSError as error:
            self._lost(failures.not_started(error, argv[0]))
            return
        self._records.gateway(self._life.process)
        self._timers.after("start", self._timing.gateway_start_s, self._start_timed_out)

    def _heard(self, event: GatewayEvent) -> None:
        """What it says of itself."""
        match event:
            case Drained():
                self.drained[event.server] = event.serial
            case Refused():
                self._fault = failures.gateway_error(event)
            case Resting():
                if self._resting == "asked":
                    self._resting = "heard"
                    self._beat()
            case Wanted():
                self._want()
            case Listening(problem=problem):
                self._records.gateway_is(problem=problem, bypassed=bool(problem))
                if problem:
                    self._records.journal.write(f"gateway: {problem}")
                self._ask_ready()

    def _ask_ready(self) -> None:
        self._ask("/ready", b"", self._ready)

    def _ask(self, path: str, body: bytes, done: Callable[[HttpAnswer], object]) -> None:
        if self._life is not None and not self._stopping:
            self._life.ask(path, body, self._timing.gateway_timeout_s, done)

    def _ready(self, answer: HttpAnswer) -> None:
        if answer.ok:
            self._ask_vector()
        else:
            self._timers.after("ask", self._timing.poll_s, self._ask_ready)

    def _ask_vector(self) -> None:
        assert self._request is not None
        body = http_probe.embedding_request(self._request.plan.model_name, 1)
        self._ask("/v1/embeddings", body, self._vector)

    def _vector(self, answer: HttpAnswer) -> None:
        """Hold what came through it against what was proved; a wrong one twice, and it is over."""
        assert self._proof is not None
        vectors = http_probe.embeddings(answer)
        if isinstance(vectors, str):  # the engine may be busy; the start's own limit ends this
            self._timers.after("ask", self._timing.poll_s, self._ask_vector)
            return
        finding = self._proof.look(vectors)
        if finding.fault and not self._proof.in_doubt:
            self._proof.doubt(finding)
            self._ask_vector()
        elif finding.fault:
            self._owner.gateway_failed(failures.gateway_wrong(finding.fault, self._service))
        else:
            self._ask("/metrics", b"", self._counted_first)

    def _counted_first(self, answer: HttpAnswer) -> None:
        """It is proved; what it has counted so far was asked by us."""
        if not answer.ok:
            self._timers.after("ask", self._timing.poll_s, self._ask_vector)
            return
        self._begin = gateway_process.counts(answer.body)
        self._idle.proved(answer.body)
        self._timers.cancel("start")
        self._ready_at = time.monotonic()
        self._misses = 0
        self._ever = True
        self._timers.after("beat", self._timing.gateway_beat_s, self._beat)
        self._complain("")
        self._owner.gateway_proved()

    def _start_timed_out(self) -> None:
        assert self._life is not None
        limit = self._timing.gateway_start_s
        self._fault = failures.gateway_slow(limit, self._life.last_line, self._log)
        self._life.kill()  # its end is told by `ended`

    # Its beat ---------------------------------------------------------------------------------

    def _beat(self) -> None:
        self._ask("/metrics", b"", self._counted)

    def _counted(self, answer: HttpAnswer) -> None:
        self._timers.after("beat", self._timing.gateway_beat_s, self._beat)
        if answer.ok:
            self._misses = 0
            self._note(answer.body)
            self._complain("")
            self._look_idle(answer.body)
            return
        self._misses += 1
        if self._misses >= self._timing.hang_failures and self._life is not None:
            self._fault = failures.gateway_hung(str(answer), self._log)
            self._life.kill()
        elif self._misses >= self._timing.beat_failures:
            self._complain(f"the gateway does not answer ({answer})")

    def _note(self, page: bytes) -> None:
        """Take over what it counts, and whether it goes past its cache."""
        now, begin, before = gateway_process.counts(page), self._begin, self._before
        use = CacheUse(
            inputs=before.inputs + now.inputs - begin.inputs,
            hits=before.hits + now.hits - begin.hits,
            shared=before.shared + now.shared - begin.shared,
            restarts=before.restarts,
        )
        past = gateway_process.is_bypassed(page)
        state = self._records.status.now.gateway
        changes: dict[str, object] = {"use": use, "bypassed": past}
        if state is not None and past != state.bypassed:
            changes["problem"] = "requests go past the cache, which fails" if past else None
        self._records.gateway_is(**changes)

    def _complain(self, complaint: str) -> None:
        if complaint != self.complaint:
            self.complaint = complaint
            self._owner.weigh()

    # Without an engine ------------------------------------------------------------------------

    def _look_idle(self, page: bytes) -> None:
        """Have no call to the engine begun once nothing needs it; then, where none is under way
        either, have it stopped."""
        if self._life is None or self._request is None:
            return
        engine, gateway = urlsplit(self._request.engine or "").port or 0, self._life.process.pid
        if self._resting == "no" and self._idle.is_due(page, engine, gateway):
            self._resting = "asked"
            self._life.tell(None)
        elif self._resting == "heard":
            self._rest(free=not in_use(page, engine, gateway))

    def _rest(self, *, free: bool) -> None:
        assert self._request is not None
        after_s = self._idle.after_s
        if free and self._stops and after_s and self._stops.engine_unneeded(after_s):
            self._resting = "yes"
            self._request = msgspec.structs.replace(self._request, engine=None)
        else:
            self._go_on()

    def _go_on(self) -> None:
        """The engine stays."""
        assert self._request is not None
        self._resting = "no"
        self._idle.begin()
        if self._life is not None:
            self._life.tell(self._request.engine)

    def _want(self) -> None:
        if self._resting in {"asked", "heard"}:
            self._go_on()
        else:
            self.wants_engine = True
            if self._stops is not None:
                self._stops.engine_wanted()

    # Its death --------------------------------------------------------------------------------

    def pids(self) -> list[int]:
        """Its process, which is no part of the engine."""
        return [] if self._life is None or self._life.child.exited else [self._life.process.pid]

    def children(self) -> list[Child]:
        """What the reaper has to know."""
        return [] if self._life is None else [self._life.child]

    def reaped(self) -> None:
        """Look whether it has ended by itself."""
        life = self._life
        if life is None or self._stopping or not life.child.exited:
            return
        life.close()
        assert life.child.returncode is not None
        code = life.child.returncode
        failure = self._fault or failures.gateway_died(code, life.last_line, self._log)
        self._records.recorder.event("gateway_ended", returncode=code, message=failure.message)
        self._over()
        self._lost(failure)

    def _over(self) -> None:
        """No process of it is left; what it has counted stays."""
        self._timers.cancel_all()
        self._life = None
        state = self._records.status.now.gateway
        if state is not None:
            self._before = state.use
        self._records.gateway(None)

    def _lost(self, failure: Failure) -> None:
        """It is not there: a first start is over, a later one is tried again."""
        if not self._ever:
            self._owner.gateway_failed(failure)
            return
        if self._ready_at is not None:
            self._budget.verified_for(time.monotonic() - self._ready_at)
        delay = self._budget.next_delay()
        if delay is None:
            self._owner.gateway_failed(failures.gave_up(failure, self._budget.policy.max_attempts))
            return
        self._before = CacheUse(
            inputs=self._before.inputs,
            hits=self._before.hits,
            shared=self._before.shared,
            restarts=self._before.restarts + 1,
        )
        self._records.gateway_is(use=self._before, problem=failure.message)
        self._timers.after("again", delay, self._start)
        self._complain(f"{failure.message}; the gateway starts again in {delay:.1f} s")

    # Its end ----------------------------------------------------------------------------------

    def stop(
        self, grace_s: float, kill_s: float, forced: Callable[[], bool]
    ) -> Generator[float, None, list[str]]:
        """End it, yielding the seconds to wait; what could not be ended, named."""
        self._stopping = True
        self._timers.cancel_all()
        life = self._life
        if life is None:
            return []
        left = yield from life.stop(grace_s, kill_s, forced)
        self._over()
        self.complaint = ""
        return [] if left is None else [left]

    def kill(self) -> None:
        """End it without waiting."""
        self._stopping = True
        if self._life is not None and processes.is_alive(self._life.process):
            self._life.kill()


def _without_words(plan: Plan) -> Plan:
    """The plan as far as it decides vectors and addresses: a few kilobytes."""
    from msgspec.structs import replace

    predicted, engines = replace(plan.predicted, terms=()), plan.replica_set
    return replace(
        plan,
        predicted=predicted,
        replica_set=None if engines is None else replace(engines, one=predicted),
        fallbacks=(),
        reasons=(),
        origin=None,
        start_budget_source="",
    )
