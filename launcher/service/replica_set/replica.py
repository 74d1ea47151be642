"""One replica: an ordinary service whose supervisor is a child of the set's supervisor.

Its engine is started, verified, watched and started again by its own supervisor, as that of every
service is. Here that supervisor is started, its state read, and its end made good: it dies with the
set's supervisor, and is started again, with what it supervised, when it dies alone or gives up.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final, Protocol

from launcher import child_environment
from launcher.documents.failure import Failure
from launcher.documents.plan import Plan
from launcher.documents.service_state import UP, ReplicaState, ServiceState, State
from launcher.errors import QlaunchError
from launcher.linux import processes
from launcher.service import failures, process_tree, recover, store
from launcher.service.process_tree import Child
from launcher.service.replica_set.states import Facts, missing_words, stage
from launcher.service.supervisor.engine_log import Pump, hear, let_go
from launcher.service.supervisor.event_loop import Loop, Timers
from launcher.service.supervisor.records import ServiceRecords
from launcher.service.supervisor.states import RestartBudget
from launcher.service.supervisor.timing import Dependencies

SETTLE_S: Final = 2.0
"""Between two looks at whether a replica's processes live and move; its files are looked at each
time."""
STOP_S: Final = 26.0
"""For a replica's supervisor to stop its engine; each of its own steps is shorter."""
_KEPT_OUT: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""systemd hears of the set alone."""


class ReplicaOwner(Protocol):
    """Who is told of a replica: the set."""

    def replica_up(self, replica: Replica) -> None:
        """It is verified; its vector has to be compared with the others'."""

    def replica_lost(self, replica: Replica, failure: Failure) -> None:
        """Its supervisor has ended without being asked to."""

    def start_supervisor(
        self, plan: Plan, argv: tuple[str, ...], env: dict[str, str], cwd: Path
    ) -> Child:
        """Start the supervisor of a replica that runs `plan`; OSError where it cannot be."""


class Replica:
    """A replica through all its lives."""

    def __init__(
        self,
        loop: Loop,
        plan: Plan,
        wiring: Dependencies,
        records: ServiceRecords,
        owner: ReplicaOwner,
    ) -> None:
        """Nothing is started. `plan`: of the replica itself."""
        self._loop, self._wiring, self._records, self._owner = loop, wiring, records, owner
        self._timers = Timers(loop)
        self.plan = plan
        self.name = plan.service
        self.child: Child | None = None
        self.state: ServiceState | None = None
        """What its supervisor says; None before its first word."""
        self.leaving = False
        self.given_up: Failure | None = None
        self.ever = False
        """Whether it has served since it was begun anew."""
        self.starts = 0
        """Starts after failures."""
        self.detail = ""
        self._fault: Failure | None = None
        """Why it was killed by us."""
        self._pump: Pump | None = None
        self._budget = RestartBudget(plan.restart)
        self._agreed: object = None
        self._serving_since: float | None = None
        self._stamp: object = None
        self._settled_at = self._moved_at = time.monotonic()

    # What is known ----------------------------------------------------------------------------

    @property
    def runs(self) -> bool:
        """Whether its supervisor lives."""
        return self.child is not None and not self.child.exited

    def facts(self) -> Facts:
        """What is known of it now."""
        return Facts(
            name=self.name,
            runs=self.runs,
            state=self._word(),
            agrees=self._agreed is not None and self._agreed == self._life(),
            leaving=self.leaving,
            given_up=self.given_up.message if self.given_up else "",
            detail=self.detail or (self.state.detail if self.state is not None else ""),
        )

    def published(self, serving: bool) -> ReplicaState:
        """What the set's state says of it."""
        facts, state = self.facts(), self.state
        runs = self.runs and state is not None
        return ReplicaState(
            service=self.name,
            state="failed" if facts.given_up else facts.state,
            serving=serving,
            endpoint=state.endpoint if runs and state is not None else None,
            supervisor=self.child.process if self.child is not None and self.runs else None,
            engine=state.engine if runs and state is not None else None,
            run="" if state is None else state.run,
            starts=self.starts,
            restarts=0 if state is None else state.restarts,
            detail="" if serving else missing_words(facts).removeprefix(f"{self.name} "),
        )

    def _word(self) -> State:
        if self.state is not None:
            return self.state.state
        return "starting" if self.runs or self.child is None else "failed"

    def _life(self) -> object:
        """What one verification is of: another run or another engine is verified anew."""
        if self.state is None:
            return None
        return (self.state.run, self.state.engine, self.state.endpoint)

    @property
    def endpoint(self) -> str | None:
        """`http://127.0.0.1:port/v1`, once it is known."""
        return None if self.state is None else self.state.endpoint

    def members(self) -> list[int]:
        """PIDs of its engine's processes."""
        return [each.pid for each in store.read_tree(store.folder(self.name))]

    # Its start --------------------------------------------------------------------------------

    def begin(self, plan: Plan) -> None:
        """Start it anew, with this plan: what it failed by before does not count."""
        self._timers.cancel_all()
        self.plan = plan
        self.given_up, self.leaving, self.ever = None, False, False
        self._budget = RestartBudget(plan.restart)
        self.start()

    def start(self) -> None:
        """Start its supervisor. What fails is told to the owner."""
        self.detail, self.state, self._agreed, self._stamp = "", None, None, None
        self._fault = None
        self._settled_at = self._moved_at = time.monotonic()
        try:
            where = store.folder(self.name, create=True)
            _write_plan(where, self.plan)
            argv = (*self._wiring.replica_argv, self.name, repr(time.monotonic()))
            env = self._environment()
            self.child = self._owner.start_supervisor(self.plan, argv, env, where.path)
        except QlaunchError as error:
            self._owner.replica_lost(self, failures.from_error(error))
            return
        except OSError as error:
            self._owner.replica_lost(self, failures.not_started(error, "a replica's supervisor"))
            return
        self._pump = Pump(lambda _: None, clean=self._records.clean, on_line=self._line)
        self._loop.watch(self.child.output, self._readable)
        self._records.roll.beside(self.name, self.child.process)

    def _environment(self) -> dict[str, str]:
        env = child_environment.utf8(os.environ)
        for name in _KEPT_OUT:
            env.pop(name, None)
        if env.get("QLAUNCH_HOME"):
            env["QLAUNCH_HOME"] = str(store.folder(self.name).path.parents[2])
        return {**env, recover.MARKER: self._records.recorder.run_id}

    def _line(self, line: str) -> None:
        if line.strip():
            self._records.journal.write(f"{self.name}: {line.strip()}")

    def _readable(self) -> None:
        assert self.child is not None
        assert self._pump is not None
        hear(self.child, self._pump, self._loop)

    # Looks ------------------------------------------------------------------------------------

    def look(self) -> bool:
        """Read what its supervisor says, where that may have changed; whether it was read."""
        if not self.runs:
            return False
        now = time.monotonic()
        where = store.folder(self.name)
        stamp = store.state_stamp(where)
        if stamp == self._stamp and now < self._settled_at + SETTLE_S:
            return False
        self._stamp, self._settled_at = stamp, now
        state = recover.settle(self.name)
        if state is not None and self._is_ours(state):
            self._heard(state, now)
        return True

    def _heard(self, state: ServiceState, now: float) -> None:
        before, self.state = self._word(), state
        if state.state != "unknown":
            self._moved_at = now
        elif now > self._moved_at + self._wiring.timing.frozen_s:
            self.kill(_ended(f"{self.name}: {state.detail}", self.name))
            return
        if state.state in UP and self._agreed != self._life():
            self._owner.replica_up(self)
        elif state.state != before:
            self._records.journal.write(f"{self.name} is {state.state} {state.detail}".strip())

    def _is_ours(self, state: ServiceState) -> bool:
        """Whether it is the word of the supervisor that runs now, not of an earlier one."""
        return self.child is not None and state.supervisor == self.child.process

    def agree(self) -> None:
        """Its vector is that of the others: from now on it may serve."""
        self._agreed, self.ever, self.detail = self._life(), True, ""
        self._serving_since = time.monotonic()

    # Its end ----------------------------------------------------------------------------------

    def kill(self, fault: Failure | None = None) -> None:
        """End its supervisor, and its engine with it; `reaped` tells the owner of the fault."""
        self._fault = fault
        if self.child is not None:
            processes.send(self.child.process, signal.SIGKILL)

    def reaped(self) -> None:
        """Look whether its supervisor has ended by itself."""
        if self.child is None or not self.child.exited or self.leaving:
            return
        failure = self._close()
        self._owner.replica_lost(self, failure)

    def _close(self) -> Failure:
        """Let go of a supervisor that has ended; why it has."""
        assert self.child is not None
        assert self.child.returncode is not None
        if self._pump is not None:
            let_go(self.child, self._pump, self._loop)
        self._records.roll.beside(self.name, None)
        state = recover.settle(self.name)  # ends what it may have left
        ours = state is not None and state.supervisor == self.child.process
        code, self.child = self.child.returncode, None
        self.state = state if ours else None
        if self._fault is not None:
            return self._fault
        if ours and state is not None and state.failure is not None:
            return state.failure
        return _ended(f"the supervisor of {self.name} ended with {failures.how(code)}", self.name)

    def rest(self) -> float | None:
        """Seconds until it may be started again; None: it has failed too often."""
        if self._serving_since is not None:
            self._budget.verified_for(time.monotonic() - self._serving_since)
            self._serving_since = None
        return self._budget.next_delay()

    def again_after(self, delay_s: float, failure: Failure) -> None:
        """Start it again, after a pause."""
        self.starts += 1
        self.detail = f"{failure.message}; starts again in {delay_s:.1f} s"
        self._timers.after("again", delay_s, self.start)

    def give_up(self, failure: Failure) -> None:
        """It stays away until somebody asks for it anew."""
        self.given_up = failure
        self._timers.cancel_all()

    def ask_to_stop(self) -> None:
        """Have its supervisor stop its engine; nothing is started again."""
        self.leaving = True
        self._timers.cancel_all()
        if self.child is not None and not self.child.exited:
            processes.send(self.child.process, signal.SIGTERM)
            processes.send(self.child.process, signal.SIGCONT)

    def stopped(
        self, limit_s: float = STOP_S, forced: Callable[[], bool] = lambda: False
    ) -> Generator[float, None, list[str]]:
        """Stop it, yielding the seconds to wait; what could not be ended, named."""
        self.ask_to_stop()
        child = self.child
        if child is None:
            return []
        yield from process_tree.until(lambda: child.exited or forced(), limit_s)
        if not child.exited:
            self.kill()
            yield from process_tree.until(lambda: child.exited, self._wiring.timing.patience.kill_s)
        if not child.exited:
            return [f"supervisor {processes.describe(child.process)}"]
        self._close()
        return self._left()

    def _left(self) -> list[str]:
        state = store.read_state(self.name)
        if state is None:
            return []
        failure = state.failure
        if failure is not None and failure.code == "stop_incomplete":
            return [failure.message]
        left = recover.leftovers(store.folder(self.name), state)
        return [f"process {processes.describe(each)}" for each in process_tree.kill_leftovers(left)]

    @property
    def settled(self) -> bool:
        """Whether its start has come to an end: it serves, or was given up."""
        return stage(self.facts()) in {"serving", "given up"}


def _ended(message: str, name: str) -> Failure:
    return Failure(
        code="replica_died",
        exit_code=6,
        failure_class=None,
        message=message,
        fix=f"see {store.folder(name).log}, or: qlaunch logs {name}",
    )


def _write_plan(where: store.Folder, plan: Plan) -> None:
    """Leave the plan in the folder, where it is not there: a full disk keeps nobody from starting
    what it ran before.

    Raises:
        QlaunchError: `state_not_written` (exit 1).
    """
    try:
        if store.read_plan(where) == plan:
            return
    except QlaunchError:
        pass  # none, or a damaged one
    store.write_plan(where, plan)
