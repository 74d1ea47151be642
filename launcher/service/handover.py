"""What a `restart` does so that the next start costs no import: see succession.py.

The service is stopped and its supervisor kept, with the template; once the next plan is made, that
supervisor executes its successor. Where it cannot, the service is stopped and started anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from launcher.documents.plan import Plan
from launcher.documents.service_state import FINAL, ServiceState
from launcher.linux import limits, processes
from launcher.linux.processes import ProcessId
from launcher.service import control, detach, reading, store, succession
from launcher.service.control import DOWN_S, ENTRY, POLL_S, SUPERVISOR_START_S, Watch
from launcher.service.recover import settle
from launcher.service.replica_set import claims
from launcher.service.store import Folder, Lock
from launcher.service.succession import Heir


def stand_by(name: str) -> Standby | None:
    """Stop a service, and have its supervisor wait; None where it does not: stop it by `down`.

    Raises:
        QlaunchError: `busy`, `runs_elsewhere`, `is_replica` (exit 9): another command has it,
            another machine, or a set at work.
    """
    claims.refuse_replica(name)
    where = store.folder(name)
    with contextlib.ExitStack() as held:
        lock = held.enter_context(control.sole(where, wait_s=5.0))
        state = settle(name)
        if state is not None and (refusal := reading.elsewhere(name, state)) is not None:
            raise refusal
        if state is None or not _can_follow(where, state) or (me := _me()) is None:
            return None
        supervisor = state.supervisor
        assert supervisor is not None
        try:
            succession.leave(where, Heir(command=me))
        except OSError:  # a full disk: a stop needs none of it
            return None
        processes.send(supervisor, succession.ASK)
        if not _stopped(name, supervisor):
            succession.clear(where)
            return None
        held.pop_all()
    return Standby(where, supervisor, state.run, lock)


class Standby:
    """A service that is stopped, and whose supervisor waits for its successor's plan.

    A context: whoever leaves it without a `launch` has the supervisor end.
    """

    def __init__(self, where: Folder, supervisor: ProcessId, run: str, lock: Lock) -> None:
        self._where, self._supervisor, self._run, self._lock = where, supervisor, run, lock
        self._over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if not self._over:
            self._let_go()

    def launch(
        self, plan: Plan, *, on_change: Watch = lambda _: None, entry: Sequence[str] = ENTRY
    ) -> ServiceState:
        """Have the successor start `plan`, and return its state once it is verified.

        Raises:
            QlaunchError: as `control.launch`.
        """
        claims.require_names(plan)
        control.leave_plan(self._where, plan)
        try:
            state = self._first(entry)
        except OSError:
            state = None
        except KeyboardInterrupt:
            self._end()
            control.interrupted(self._where, self._supervisor)
            raise
        if state is None:
            self._let_go()
            return control.launch(plan, on_change=on_change, entry=entry)
        self._end()
        return control.followed(self._where, state, on_change)

    def _first(self, entry: Sequence[str]) -> ServiceState | None:
        """The first state of the successor; None where it does not come."""
        me = _me()
        assert me is not None
        argv = (*entry, self._where.name, repr(time.monotonic()))
        with _in_memory(detach.environment(self._where)) as descriptor:
            succession.leave(self._where, Heir(command=me, argv=argv, environment=descriptor))
            processes.send(self._supervisor, succession.ASK)
            deadline = time.monotonic() + SUPERVISOR_START_S
            while processes.is_alive(self._supervisor) and time.monotonic() < deadline:
                state = store.read_state(self._where.name)
                if state is not None and state.run not in {"", self._run}:
                    return state
                time.sleep(0.01)
        return None

    def _let_go(self) -> None:
        processes.send(self._supervisor, signal.SIGKILL)
        control.let_end(self._supervisor)
        self._end()

    def _end(self) -> None:
        """Let others start and stop the service."""
        self._over = True
        succession.clear(self._where)
        self._lock.release()


def _can_follow(where: Folder, state: ServiceState) -> bool:
    """Whether there is a template to keep, and a supervisor that could, under the same limits.

    One whose lock's file was replaced says nothing any more, not even that it has stopped.
    """
    supervisor = state.supervisor
    return (
        state.state not in FINAL
        and supervisor is not None
        and state.template is not None
        and processes.is_alive(supervisor)
        and not processes.is_stopped(supervisor)
        and processes.catches(supervisor, succession.ASK)
        and limits.same_as(supervisor.pid)
        and store.is_held(where)
    )


def _stopped(name: str, supervisor: ProcessId) -> bool:
    """Whether it has stopped the service, and still is there."""
    deadline = time.monotonic() + DOWN_S
    while processes.is_alive(supervisor) and time.monotonic() < deadline:
        state = store.read_state(name)
        if state is not None and state.state in FINAL:
            return state.state == "stopped"
        time.sleep(POLL_S)
    return False


def _me() -> ProcessId | None:
    return processes.process_id(os.getpid())


@contextlib.contextmanager
def _in_memory(environment: dict[str, str]) -> Iterator[int]:
    descriptor = os.memfd_create("qlaunch-environment")
    try:
        os.write(descriptor, json.dumps(environment).encode())  # JSON of the standard library: a
        # variable need not be text, and its stray bytes pass as lone surrogates
        yield descriptor
    finally:
        os.close(descriptor)
