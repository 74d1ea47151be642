"""The supervisor of a set: the one process that owns a service of several engines.

It has the service's folder, lock, address and state. Its children are the supervisors of its
replicas, each of an ordinary service (replica.py), and the gateway before them. All of them die
with it. One loop, no threads; signals ask, as any supervisor: SIGTERM and SIGINT for an orderly
stop, and SIGUSR1 for the change that lies in the folder (rollout.py).
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from launcher.documents.failure import Failure
from launcher.documents.gateway import Server
from launcher.documents.plan import Plan
from launcher.documents.service_state import START, UP, ServiceState, State
from launcher.errors import QlaunchError
from launcher.linux import processes, procfs
from launcher.service import failures, process_tree
from launcher.service.process_tree import Child, StopReport
from launcher.service.replica_set import rollout, states
from launcher.service.replica_set.agreement import Agreement
from launcher.service.replica_set.naming import replica_plan
from launcher.service.replica_set.replica import Replica
from launcher.service.replica_set.shared_template import SharedTemplate
from launcher.service.store import Folder
from launcher.service.supervisor.cache_gateway import CacheGateway
from launcher.service.supervisor.event_loop import Call
from launcher.service.supervisor.resources import PortReservation
from launcher.service.supervisor.service_owner import ServiceOwner
from launcher.service.supervisor.timing import Dependencies

STEP_S = 0.05
"""Between two looks at whether what is waited for has happened."""
STOP_S = 15.0
"""For the replicas after the gateway has finished its requests; `down` waits 26 s in all."""
DRAIN_S = 8.0
"""For the gateway to finish its requests, of those."""


class SetSupervisor(ServiceOwner):
    """One set, from `up` to its end."""

    may_follow = staticmethod(states.may_follow)

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
        assert plan.replica_set is not None
        super().__init__(where, wiring, began=began, foreground=foreground, on_change=on_change)
        self.plan = plan
        self.wanted = plan.replica_set.count
        """How many replicas there are to be."""
        self.replicas: list[Replica] = []
        self._begun = self._fronted = self._ever_up = False
        self._measured = False

    @property
    def _plan(self) -> Plan:
        return self.plan

    def _ports(self) -> list[PortReservation]:
        return [self.gateway.port]

    def _signals(self) -> dict[int, Call]:
        return {**super()._signals(), signal.SIGUSR1: self._asked}

    def _open(self) -> None:
        self.gateway = CacheGateway(
            self._loop, self._where, self.plan, self.wiring, self.records, self
        )
        self._agreement = Agreement(
            self._loop,
            self.plan,
            self.records.key,
            self._timing.gateway_timeout_s,
            lambda _replica: self.update(),
        )
        self._shared = SharedTemplate(self._loop, self.records, self._timing.import_s)
        self.replicas = [self.replica(number) for number in range(1, self.wanted + 1)]

    def replica(self, number: int) -> Replica:
        """A replica that has not been started."""
        plan = replica_plan(self.plan, number)
        return Replica(self._loop, plan, self.wiring, self.records, self)

    # Starting ---------------------------------------------------------------------------------

    def _start(self) -> None:
        try:
            self.gateway.port.take_port()
        except QlaunchError as error:
            self._end("failed", failures.from_error(error))
            return
        except OSError as error:
            self._end("failed", failures.not_started(error, "the gateway"))
            return
        self.status.change(endpoint=self.gateway.port.url)
        self.update()
        self._look()
        self._sample()
        self.drive(self._bring_up())

    def drive(self, steps: Generator[float, None, object]) -> None:
        """Run steps that end where the set does."""

        def guarded() -> Generator[float, None, None]:
            for delay in steps:
                if self._goal != "run":
                    steps.close()
                    return
                yield delay

        self._loop.drive(guarded())

    def _bring_up(self) -> Generator[float, None, None]:
        """The first replica alone: it computes the reference for all, and what is wrong with it is
        wrong with all. Then the gateway, then the others."""
        first, *others = self.replicas
        self.status.change(detail="the engine is imported, once for all replicas")
        yield from self._shared.stand(first.plan)
        yield from self.begin([first])
        if first.given_up is not None:
            self._end("failed", first.given_up)
            return
        self.gateway.begin_before(self.plan, self._servers(), self._agreement.proved)
        self._begun = True
        yield from until(lambda: self._fronted)
        yield from self.begin(others)

    def begin(self, replicas: Sequence[Replica]) -> Generator[float, None, None]:
        """Start replicas and wait until each serves or was given up: together on a CPU; one after
        another on a GPU, where each takes its part of what the others have left."""
        groups = [[each] for each in replicas] if self.plan.device == "cuda" else [replicas]
        for group in groups:
            for each in group:
                each.begin(each.plan)
            self.update()
            yield from until(lambda group=group: all(each.settled for each in group))  # type: ignore[misc]

    def start_supervisor(
        self, plan: Plan, argv: tuple[str, ...], env: dict[str, str], cwd: Path
    ) -> Child:
        """Start a replica's supervisor: where there is a template, with a copy of it."""
        return self._shared.start(plan, argv, env, cwd)

    # What is told -----------------------------------------------------------------------------

    def replica_up(self, replica: Replica) -> None:
        """It is verified: compare it with the others."""
        self._agreement.ask(replica)

    def replica_lost(self, replica: Replica, failure: Failure) -> None:
        """It ended by itself: start it again, unless its first start failed."""
        self._recorder.event(
            "replica_lost", replica=replica.name, code=failure.code, message=failure.message
        )
        self.records.journal.write(f"{replica.name}: {failure.message}")
        if self._goal != "run":
            return
        delay = replica.rest() if replica.ever else None
        if delay is None:
            limit = replica.plan.restart.max_attempts
            replica.give_up(failures.gave_up(failure, limit) if replica.ever else failure)
        else:
            replica.again_after(delay, failure)
        self.update()

    def gateway_proved(self) -> None:
        """It gives the vector of the replicas."""
        self._fronted = True
        self.update()

    def gateway_failed(self, failure: Failure) -> None:
        """It will not come up, or gives another vector."""
        self._end("failed", failure)

    def weigh(self) -> None:
        """What is wrong with the gateway has changed."""
        self.update()

    # Looks ------------------------------------------------------------------------------------

    def _look(self) -> None:
        read = [each.look() for each in list(self.replicas)]
        if not self._winding:
            if any(read):  # once a second, and when something has changed
                self.update()
            self._timers.after("look", self._timing.look_s, self._look)

    def _servers(self) -> list[Server]:
        """What the gateway is told: who serves, and who will again."""
        serving = states.rotation([each.facts() for each in self.replicas])
        return [
            Server(name=each.name, url=each.endpoint if each.name in serving else None)
            for each in self.replicas
            if each.given_up is None
        ]

    def update(self) -> int:
        """Tell the gateway and everybody else how it stands; the serial of what it was told."""
        if self._goal != "run":
            return 0
        facts = [each.facts() for each in self.replicas]
        serving = states.rotation(facts)
        serial = self.gateway.rotate(self._servers()) if self._begun else 0
        restarts = sum(
            each.starts + (each.state.restarts if each.state else 0) for each in self.replicas
        )
        self.status.change(
            replicas=tuple(each.published(each.name in serving) for each in self.replicas),
            restarts=restarts,
        )
        self._time()
        verdict = (
            states.running(facts[: self.wanted], self.wanted, complaint=self.gateway.complaint)
            if self._ever_up
            else states.starting(facts[: self.wanted], self.wanted, fronted=self._fronted)
        )
        self._judged(verdict)
        return serial

    def _judged(self, verdict: states.Verdict) -> None:
        now = self.status.state
        if verdict.state == "failed":
            self._end("failed", self._all_given_up())
        elif not self._ever_up and verdict.state in UP:
            self._came_up(verdict)
        elif verdict.state == now or (not self._ever_up and not _advances(now, verdict.state)):
            self.status.change(detail=verdict.detail)
        else:
            self.records.enter(verdict.state, verdict.detail)

    def _all_given_up(self) -> Failure:
        return [each.given_up for each in self.replicas if each.given_up is not None][-1]

    def _came_up(self, verdict: states.Verdict) -> None:
        self._ever_up = True
        smoke = next((each.state.smoke for each in self.replicas if each.state), None)
        self.records.time("verified_s")
        self._recorder.verified()
        peak = self._recorder.measured
        self.status.change(measured=peak, verified_peak=peak, smoke=smoke)
        self._recorder.save(self.status.now)
        self.records.enter(verdict.state, verdict.detail, failure=None)

    def _time(self) -> None:
        if any(each.state and each.state.timings.ready_s is not None for each in self.replicas):
            self.records.time("ready_s")

    def _sample(self) -> None:
        if self._winding:
            return
        self._measure()
        delay = self._recorder.sample(ready=self.status.state in UP)
        self._timers.after("sample", delay, self._sample)
        self.status.change(measured=self._recorder.measured)

    def _measure(self) -> None:
        """Begin to measure with the first engine that is seen; others are added as they come."""
        if self._measured:
            return
        engine = next((each.state.engine for each in self.replicas if each.state), None)
        if engine is not None:
            self._measured = True
            self._recorder.begin_life(engine.pid, self._pids)

    def _pids(self) -> list[int]:
        engines = (pid for each in self.replicas for pid in each.members())
        return [*self.gateway.pids(), *self._shared.pids(), *engines]

    # Changes ----------------------------------------------------------------------------------

    def _asked(self) -> None:
        """Somebody left a change in the folder."""
        if self._goal == "run":
            rollout.begin(self, self._where)

    # Death ------------------------------------------------------------------------------------

    def _reap(self) -> None:
        children = [each.child for each in self.replicas if each.child is not None]
        children += [] if self._shared.child is None else [self._shared.child]
        process_tree.reap([*children, *self.gateway.children()], lambda _pid: None)
        for each in list(self.replicas):
            each.reaped()
        self.gateway.reaped()

    # Ending -----------------------------------------------------------------------------------

    def _wind(self) -> Generator[float, None, None]:
        """First the gateway, which finishes what is under way, then all replicas at once."""
        self._timers.cancel_all()
        self._agreement.close()
        patience = self._timing.patience
        drain_s = min(DRAIN_S, patience.grace_s)
        left = yield from self.gateway.stop(drain_s, patience.kill_s, lambda: self._forced)
        for each in self.replicas:
            each.ask_to_stop()
        deadline = time.monotonic() + STOP_S
        for each in self.replicas:
            rest = max(0.0, deadline - time.monotonic())
            left += yield from each.stopped(rest, lambda: self._forced)
        left += yield from self._shared.stop()
        self._recorder.end_life()
        left += yield from self._port_held()
        self._wound_down(StopReport(left=left))

    def _port_held(self) -> Generator[float, None, list[str]]:
        def held() -> str | None:
            return self.gateway.port.of_port(self._failure, ())

        yield from process_tree.until(lambda: held() is None, self._timing.patience.kill_s)
        why = held()
        return [] if why is None else [why]

    def _wound_down(self, report: StopReport) -> None:
        self.records.stopped(report)
        self.status.change(replicas=tuple(each.published(False) for each in self.replicas))
        if report.left:
            self._finish("failed", failures.left_over(report.left, self._failure))
        elif self._goal == "failed":
            self._finish("failed", self._failure)
        else:
            self._finish("stopped", None)

    def _kill(self) -> None:
        self.gateway.kill()
        self._shared.kill()
        alive = [each.child.process for each in self.replicas if each.child and each.runs]
        process_tree.kill_leftovers(processes_ending(alive))


def until(done: Callable[[], bool]) -> Generator[float, None, None]:
    """Wait until `done`, yielding the seconds to wait before looking again."""
    while not done():
        yield STEP_S


def processes_ending(roots: Sequence[processes.ProcessId]) -> list[processes.ProcessId]:
    """These processes and all below them."""
    table = processes.all_processes()
    below = procfs.descendants([each.pid for each in roots], table)
    return [processes.identity_of(table[pid]) for pid in sorted(below)]


def _advances(now: State, to: State) -> bool:
    """Whether a start goes on: its phases only advance."""
    return now in START and to in START and START.index(to) > START.index(now)
