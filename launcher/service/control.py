"""Starting, stopping and asking services: what the command line calls.

This module never writes state. A start leaves a plan and spawns the supervisor; a stop asks it by
signal; everything else reads. `up.lock` serialises starts and stops of one service, and is held
only for the moment of the start, so that `down` works while `up` still waits.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from launcher.documents.failure import Failure
from launcher.documents.plan import Plan
from launcher.documents.service_state import FINAL, UP, ServiceState
from launcher.errors import ExitCode, QlaunchError
from launcher.linux import processes
from launcher.linux.processes import ProcessId
from launcher.service import detach, document, keys, known, pid1, ports, reading, restarting, store
from launcher.service.failures import supervisor_gone
from launcher.service.recover import leftovers, settle
from launcher.service.replica_set import claims
from launcher.service.store import Folder, Lock

if TYPE_CHECKING:
    from launcher.service.supervisor.timing import Dependencies

ENTRY = (sys.executable, "-P", "-m", "launcher.app.supervise")
"""Program of a detached supervisor; the service's name and the time of `up` follow."""
POLL_S = 0.05
SUPERVISOR_START_S = 20.0
"""For the supervisor's own start: about 0.2 s, more on a machine that is short of everything."""
LAST_STEPS_S = 2.0
"""From a supervisor's last state to its end: it closes its files, which takes milliseconds."""
FROZEN_S = 30.0
"""What `up` waits for a supervisor that does not move: somebody may be debugging it."""
DOWN_S = 30.0
"""What `down` takes at most."""
Watch = Callable[[ServiceState], object]
status_of = document.status_of


class DownResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a `down` did."""

    service: str
    was_running: bool
    state: ServiceState | None
    """The last state; None if the service was never started."""
    seconds: float
    forced: bool = False
    """Whether the supervisor itself had to be killed."""
    left: tuple[str, ...] = ()
    """What could not be ended, named."""


def launch(
    plan: Plan, *, on_change: Watch = lambda _: None, entry: Sequence[str] = ENTRY
) -> ServiceState:
    """Start a service, detached, and return its state once it is verified.

    `on_change` gets every new state on the way. An interrupt (Ctrl-C) stops the service and is
    raised again when it is gone; a second one kills it.

    Raises:
        QlaunchError: `already_running`, `busy`, `port_taken` (exit 9), `api_key_unusable`,
            `bad_host` (exit 2) before the start; then the service's own failure, with the status
            as `data`: start_failed (6), smoke_failed (7), timed_out (8), port_taken (9);
            `stopped_meanwhile` (9) if someone stopped it.
    """
    began = time.monotonic()
    where = store.folder(plan.service, create=True)
    with sole(where):
        _refuse_running(plan)
        leave_plan(where, plan)
        pid = detach.spawn(where, entry, began)
        supervisor = processes.process_id(pid)
        try:
            state = _first_state(where, pid, supervisor)
        except KeyboardInterrupt:
            interrupted(where, supervisor)
            raise
    return followed(where, state, on_change)


def leave_plan(where: Folder, plan: Plan) -> None:
    """Leave the plan for a supervisor that is about to begin, unless it could not start anyway.

    Raises:
        QlaunchError: `api_key_unusable`, `bad_host` (exit 2), `port_taken` (exit 9).
    """
    if plan.api_key_file:
        keys.read_key(plan.api_key_file)
    if plan.port:
        ports.check_free(plan.host, plan.port)
    store.write_plan(where, plan)


def followed(where: Folder, state: ServiceState, on_change: Watch) -> ServiceState:
    """The state of a service that has begun to start, once it is verified; else as `launch`."""
    try:
        return _follow(where.name, state, on_change)
    except KeyboardInterrupt:
        interrupted(where, state.supervisor)
        raise


def sole(where: Folder, wait_s: float = 0.0) -> Lock:
    """The lock under which a service is started, stopped or forgotten, taken.

    Raises:
        QlaunchError: `busy` (exit 9), `proc_unusable` or `state_dir_unsafe` (exit 1).
    """
    if (blind := processes.proc_problem()) is not None:
        raise QlaunchError(
            blind,
            code="proc_unusable",
            exit_code=ExitCode.UNEXPECTED,
            fix="mount it: unshare --mount-proc, or mount -t proc proc /proc",
        )
    if (lock := acquired(where.up_lock, wait_s)) is None:
        raise reading.busy(where)
    with contextlib.suppress(OSError):  # for PID 1, which ends everybody with itself
        if (me := processes.process_id(os.getpid())) is not None:
            lock.sign(me)
    return lock


def acquired(path: Path, wait_s: float) -> Lock | None:
    """Take a lock, or return None where another holds it for `wait_s` seconds.

    Raises:
        QlaunchError: `state_dir_unsafe` (exit 1), the lock file cannot be opened.
    """
    lock = Lock(path)
    try:
        return lock if lock.acquire(wait_s=wait_s) else None
    except OSError as error:
        raise store.not_lockable(path, error) from error


def _refuse_running(plan: Plan) -> None:
    name = plan.service
    claims.require_names(plan)
    state = settle(name)
    if state is not None and (refusal := reading.elsewhere(name, state)) is not None:
        raise refusal
    if supervisor_of(store.folder(name), state) is None:
        return
    where = f" at {state.endpoint}" if state is not None and state.endpoint else ""
    other = reading.other_model(plan)
    serves = f", and serves another model: {other}" if other else ""
    use = "" if other else "use it, "
    raise QlaunchError(
        f"service {name!r} is already running ({state.state if state else 'starting'})"
        f"{where}{serves}",
        code="already_running",
        exit_code=ExitCode.CONFLICT,
        fix=f"{use}stop it with qlaunch down {name}, or give another name with --name",
        data=None if state is None else status_of(state),
    )


def supervisor_of(where: Folder, state: ServiceState | None) -> ProcessId | None:
    """The live supervisor of a service, also where its state file is damaged or gone."""
    if state is not None and state.state not in FINAL and processes.is_alive(state.supervisor):
        return state.supervisor
    deadline = time.monotonic() + LAST_STEPS_S
    while (holder := store.lock_holder(where)) is not None:
        ending = state is not None and state.state != "unknown" and state.supervisor == holder
        if not ending or time.monotonic() > deadline:
            break
        _reap(holder.pid)
        time.sleep(0.01)
    return holder


def _first_state(where: Folder, pid: int, supervisor: ProcessId | None) -> ServiceState:
    """Wait until the new supervisor has published its first state."""
    deadline = time.monotonic() + SUPERVISOR_START_S
    while time.monotonic() < deadline:
        gone = not _lives(supervisor)
        state = store.read_state(where.name)
        if state is not None and state.supervisor is not None and state.supervisor.pid == pid:
            return state
        if gone:
            _reap(pid)
            break
        time.sleep(0.01)
    if supervisor is not None:
        processes.send(supervisor, signal.SIGKILL)
        let_end(supervisor)
    raise QlaunchError(
        f"the supervisor of {where.name!r} did not come up: {_last_words(where)}",
        code="supervisor_failed",
        exit_code=ExitCode.UNEXPECTED,
        fix=f"read {where.log}",
    )


def _last_words(where: Folder) -> str:
    try:
        lines = where.log.read_text(encoding="utf-8", errors="replace")[-4000:].splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "it said nothing"


def _reap(pid: int) -> None:
    """Reap an ended child of ours, if `pid` is one: no zombie stays in a long-lived caller."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _follow(name: str, state: ServiceState, on_change: Watch) -> ServiceState:
    """Watch the state file until the service is up or over."""
    seen: object = None
    where = store.folder(name)
    supervisor, run = state.supervisor, state.run
    while True:
        on_change(state)
        if state.state in FINAL:
            let_end(supervisor)
        if state.state == "stopped" or state.run not in {"", run}:
            raise reading.stopped_meanwhile(where, state)
        if state.state in UP:
            return state
        if state.state in FINAL:
            raise _failed(state)
        patience = reading.Patience(where, supervisor, FROZEN_S)
        while (stamp := store.state_stamp(where)) == seen and _lives(supervisor):
            if (doubt := patience.doubt(state)) is not None:
                on_change(doubt)
            time.sleep(POLL_S)
        seen = stamp
        fresh = store.read_state(name)
        if not _lives(supervisor) and (fresh is None or fresh.state not in FINAL):
            fresh = settle(name)
        if fresh is None:
            raise _vanished(where)
        state = fresh


def let_end(supervisor: ProcessId | None) -> None:
    """Wait for the end of a supervisor that has published its last state, or was killed."""
    deadline = time.monotonic() + LAST_STEPS_S
    while _lives(supervisor) and time.monotonic() < deadline:
        time.sleep(0.01)


def _lives(supervisor: ProcessId | None) -> bool:
    if supervisor is None:
        return False
    if processes.is_alive(supervisor):
        return True
    _reap(supervisor.pid)  # in this order: it may end between two questions
    return False


def _vanished(where: Folder) -> QlaunchError:
    return QlaunchError(
        f"the folder of service {where.name!r} was removed while it was starting",
        code="state_vanished",
        exit_code=ExitCode.UNEXPECTED,
        fix=f"start it again: qlaunch up {where.name}",
    )


def _failed(state: ServiceState) -> QlaunchError:
    failure = state.failure
    if failure is None:
        failure = supervisor_gone(str(store.folder(state.service).log))
    return failure_error(failure, state)


def failure_error(failure: Failure, state: ServiceState) -> QlaunchError:
    """The failure of a service as the error a command ends with."""
    return QlaunchError(
        f"service {state.service!r}: {failure.message}",
        code=failure.code,
        exit_code=ExitCode(failure.exit_code),
        fix=failure.fix,
        data=status_of(state),
    )


def foreground(
    plan: Plan, wiring: Dependencies, *, on_change: Watch = lambda _: None
) -> ServiceState:
    """Be the supervisor: run the service in this process until it ends, and return its last state.

    For systemd and containers: readiness goes to NOTIFY_SOCKET. The main thread must be the only
    one. Signals stop it as they do a detached supervisor.

    Raises:
        QlaunchError: as `launch`; the service's own failure too.
    """
    from launcher.service.supervision import supervisor_for

    began = time.monotonic()
    where = store.folder(plan.service, create=True)
    with sole(where) as lock:
        _refuse_running(plan)
        store.write_plan(where, plan)

        def first(state: ServiceState) -> None:
            lock.release()  # from the first state on, the supervisor's own lock speaks for it
            on_change(state)

        supervisor = supervisor_for(
            where, plan, wiring, began=began, foreground=True, on_change=first
        )
        state = supervisor.run()
    if state.supervisor is not None and pid1.carries(state.supervisor):
        pid1.see_off(where)
    if state.failure is not None:
        raise failure_error(state.failure, state)
    return state


def interrupted(where: Folder, supervisor: ProcessId | None) -> None:
    """Ctrl-C: ask for a stop and see it through; once more, and the engine is killed."""
    presses = 1
    while supervisor is not None and presses < 5:  # whoever presses that often wants out
        try:
            processes.send(supervisor, signal.SIGINT)
            deadline = time.monotonic() + DOWN_S
            while _lives(supervisor) and time.monotonic() < deadline:
                time.sleep(POLL_S)
            break
        except KeyboardInterrupt:
            presses += 1
    if supervisor is not None and processes.is_alive(supervisor):
        processes.send(supervisor, signal.SIGKILL)
    settle(where.name)


def down(name: str, *, timeout: float = DOWN_S) -> DownResult:
    """Stop a service and prove that nothing is left; nothing to do is fine too.

    Within `timeout` seconds: the supervisor has most of it for an orderly stop, then it is killed,
    its engine dies with it, and what is left is ended by identity.

    Raises:
        QlaunchError: `busy` (exit 9): another command starts or stops this service; `is_replica`
            (exit 9): it is one of a set at work; `bad_service_name` (exit 2).
    """
    began = time.monotonic()
    where = store.folder(name)
    if not where.path.is_dir():
        return DownResult(service=name, was_running=False, state=None, seconds=0.0)
    claims.refuse_replica(name)
    with sole(where, wait_s=5.0):  # an `up` holds it for the moment of its start
        state = settle(name)
        if state is not None and (refusal := reading.elsewhere(name, state)) is not None:
            raise refusal
        supervisor = supervisor_of(where, state)
        if supervisor is None:
            left = ended_leftovers(where, state)
            return _down_result(name, False, state, began, left=left)
        forced = _stop_supervisor(where, supervisor, began, timeout)
        state = settle(name)
        left = _ended_leftovers_of(where, state)
        if not _ended(where, supervisor):
            left = (*left, f"supervisor {processes.describe(supervisor)}")
        return _down_result(name, True, state, began, forced=forced, left=left)


def _ended(where: Folder, supervisor: ProcessId) -> bool:
    """Whether it is gone; one that ends its container waits for us, with its lock let go."""
    if not _lives(supervisor):
        return True
    if not pid1.carries(supervisor):
        return False
    with Lock(where.lock) as lock:
        return lock.acquire()


def _stop_supervisor(where: Folder, supervisor: ProcessId, began: float, timeout: float) -> bool:
    """Ask it to stop and wait; kill it when its time is over, which returns True."""
    from launcher.service.process_tree import Patience

    processes.send(supervisor, signal.SIGTERM)
    processes.send(
        supervisor, signal.SIGCONT
    )  # one that was stopped takes the signal when it goes on
    deadline = began + max(timeout - 4.0, timeout / 2)
    while not _ended(where, supervisor) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    if _ended(where, supervisor):
        return False
    processes.send(supervisor, signal.SIGKILL)
    # The kernel needs a moment, and on a busy machine more, however short the time-out is.
    deadline = max(began + timeout - 3.0, time.monotonic() + Patience().kill_s)
    while _lives(supervisor) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return True


def ended_leftovers(where: Folder, state: ServiceState | None) -> tuple[str, ...]:
    """End what an earlier life of the service may have left; what resists is named.

    Under its lock: where that is held, a supervisor lives that cannot be seen from here, and its
    engine is no leftover.
    """
    from launcher.service.process_tree import kill_leftovers

    if (lock := acquired(where.lock, LAST_STEPS_S)) is None:
        raise QlaunchError(
            f"service {where.name!r} has a supervisor that cannot be found from here",
            code="runs_elsewhere",
            exit_code=ExitCode.CONFLICT,
            fix="run the command in its container, or on its machine",
        )
    with lock:
        members = () if state is None else tuple(each.service for each in state.replicas)
        left = tuple(line for name in members for line in _of_replica(name))
        if state is None or not store.read_tree(where):
            return left
        own = kill_leftovers(leftovers(where, state))
        return (*left, *(processes.describe(one) for one in own))


def _ended_leftovers_of(where: Folder, state: ServiceState | None) -> tuple[str, ...]:
    """The same after a stop, which is told where the lock's file is none."""
    try:
        return ended_leftovers(where, state)
    except QlaunchError as error:
        if error.code != "state_dir_unsafe":
            raise
        raise error.saying(
            f"service {where.name!r} was stopped, and cannot be noted as stopped: {error.message}"
        ) from error


def _of_replica(name: str) -> tuple[str, ...]:
    """The same of a replica of a set that is over."""
    where = store.folder(name)
    return ended_leftovers(where, settle(name)) if where.path.is_dir() else ()


def _down_result(
    name: str,
    was_running: bool,
    state: ServiceState | None,
    began: float,
    *,
    forced: bool = False,
    left: tuple[str, ...] = (),
) -> DownResult:
    seconds = round(time.monotonic() - began, 3)
    if state is not None and state.failure is not None and state.failure.code == "stop_incomplete":
        left = (*left, state.failure.message)
    return DownResult(
        service=name,
        was_running=was_running,
        state=state,
        seconds=seconds,
        forced=forced,
        left=left,
    )


def status(name: str) -> ServiceState:
    """The state of a service, settled: what it says is true now.

    Raises:
        QlaunchError: `no_such_service` (exit 3); `bad_service_name` (exit 2).
    """
    state = settle(name)
    if state is None:
        # A start that was refused leaves a folder with its lock, and no service.
        raise QlaunchError(
            f"there is no service {name!r}{known.others(name)}",
            code="no_such_service",
            exit_code=ExitCode.NOT_RUNNING,
            fix="qlaunch ps lists services, qlaunch up starts one",
        )
    return restarting.understood(store.folder(name), state)


def services(*, replicas: bool = False) -> list[ServiceState]:
    """Every service that has ever been started here, settled, by name.

    `replicas`: those that belong to a set too, each of which is a service of its own.
    """
    found = [(name, settle(name)) for name in store.list_services()]
    states = [restarting.understood(store.folder(name), one) for name, one in found if one]
    return [state for state in states if replicas or state.part_of is None]
