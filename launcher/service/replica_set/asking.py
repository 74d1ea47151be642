"""Asking a set that runs to change: what the command line calls. It writes no state."""

from __future__ import annotations

import signal
import time
import uuid
from typing import Final, Literal

from launcher.documents.plan import Plan
from launcher.documents.service_state import FINAL, START, Rollout, ServiceState
from launcher.errors import ExitCode, QlaunchError
from launcher.linux import processes
from launcher.service import control, failures, reading, store
from launcher.service.control import POLL_S, Watch
from launcher.service.recover import settle
from launcher.service.replica_set import claims, rollout
from launcher.service.store import Folder

HEARD_S: Final = 20.0
"""For the set's supervisor to take a request: milliseconds, more on a machine short of
everything."""


def change(
    plan: Plan,
    kind: Literal["scale", "restart"],
    *,
    afresh: bool,
    on_change: Watch = lambda _: None,
) -> ServiceState:
    """Have the set that `plan.service` names become what `plan` says, and wait until it has.

    `afresh`: replicas that would run the same are started again too. `on_change` gets every new
    state on the way. Whoever stops waiting stops nothing.

    Raises:
        QlaunchError: `not_running` (exit 3), `busy`, `not_a_set`, `name_taken` (exit 9), and what
            the change failed by: the set is then as it was.
    """
    assert plan.replica_set is not None
    where = store.folder(plan.service)
    asked = Rollout(id=uuid.uuid4().hex[:12], kind=kind, replicas=plan.replica_set.count)
    with control.sole(where, wait_s=5.0):
        state = _require_changeable(plan.service)
        claims.require_names(plan)
        rollout.leave(where, rollout.Request(rollout=asked, plan=plan, afresh=afresh))
        assert state.supervisor is not None
        processes.send(state.supervisor, signal.SIGUSR1)
        _heard(where, asked, state)
    return _follow(where, asked, on_change)


def _require_changeable(name: str) -> ServiceState:
    """The state of a set that runs, and that nobody is changing now."""
    state = control.status(name)
    if (refusal := reading.elsewhere(name, state)) is not None:
        raise refusal
    if state.state in FINAL or state.supervisor is None:
        raise failures.not_running(state)
    if not state.replicas:
        raise not_a_set(name)
    if state.state in START or state.state == "stopping":
        raise _busy(name, f"is {state.state}")
    if state.rollout is not None and not state.rollout.done:
        raise _busy(name, f"is being changed already ({state.rollout.detail})")
    return state


def not_a_set(name: str) -> QlaunchError:
    """The refusal to change the number of a service whose engine has the address itself."""
    return QlaunchError(
        f"service {name!r} is a single engine, which listens at the service's address itself",
        code="not_a_set",
        exit_code=ExitCode.CONFLICT,
        fix=f"qlaunch down {name}, then start it with --replicas (2 or more) once",
    )


def _busy(name: str, what: str) -> QlaunchError:
    return QlaunchError(
        f"service {name!r} {what}",
        code="busy",
        exit_code=ExitCode.CONFLICT,
        fix=f"wait for it: qlaunch status {name}",
    )


def _heard(where: Folder, asked: Rollout, before: ServiceState) -> None:
    """Wait until the supervisor says that it has the request."""
    deadline = time.monotonic() + HEARD_S
    while time.monotonic() < deadline:
        state = store.read_state(where.name)
        if state is not None and state.rollout is not None and state.rollout.id == asked.id:
            return
        if not processes.is_alive(before.supervisor):
            return  # `_follow` tells
        time.sleep(POLL_S)
    raise QlaunchError(
        f"the supervisor of {where.name!r} did not take the change within {HEARD_S:.0f} s",
        code="supervisor_stuck",
        exit_code=ExitCode.TIMEOUT,
        fix=f"see qlaunch status {where.name}, and {where.log}",
    )


def _follow(where: Folder, asked: Rollout, on_change: Watch) -> ServiceState:
    told: object = None
    while True:
        state = settle(where.name)
        if state is None or state.state in FINAL:
            what = "is gone" if state is None else f"is {state.state}: {state.detail}"
            raise QlaunchError(
                f"service {where.name!r} {what}; the change was not done",
                code="stopped_meanwhile",
                exit_code=ExitCode.CONFLICT,
                fix=f"see qlaunch status {where.name}; once it runs, give the command again",
                data=None if state is None else control.status_of(state),
            )
        now = state.rollout
        if now is not None and now.id == asked.id and now.done:
            break
        if told != (told := (state.state, state.detail, now)):
            on_change(state)
        time.sleep(POLL_S)
    if now.failure is not None:
        failure = now.failure
        raise QlaunchError(
            f"service {where.name!r} is as it was: {failure.message}",
            code=failure.code,
            exit_code=ExitCode(failure.exit_code),
            fix=failure.fix,
            data=control.status_of(state),
        )
    return state
