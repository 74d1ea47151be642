"""Changing a set that runs: another number of replicas, or all of them started again in turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from launcher.app import exporting
from launcher.app.prepare import Prepared, Returned, prepare, require_fit
from launcher.documents.plan import Plan
from launcher.documents.service_state import FINAL, ServiceState
from launcher.errors import ExitCode, QlaunchError
from launcher.service import control, failures, store
from launcher.service.control import Watch
from launcher.service.replica_set import asking
from launcher.service.replica_set.naming import same_front

Progress = Callable[[str], None]


def scaled(name: str, count: int, progress: Progress, on_change: Watch) -> ServiceState:
    """Have a set run `count` replicas, each with its part of the machine.

    Raises:
        QlaunchError: `not_running` (exit 3), `does_not_fit` (exit 4), `not_a_set`,
            `profile_changed` (exit 9), what `prepare` refuses, and what the change failed by.
    """
    state = control.status(name)
    plan = store.read_plan(store.folder(name))
    if plan.replica_set is None:
        raise asking.not_a_set(name)
    if state.state in FINAL:
        raise failures.not_running(state)
    _require_same_profile(plan)
    prepared = _again(plan, state, progress, count=count, fingerprint=plan.fingerprint)
    require_fit(prepared)
    return asking.change(prepared.plan, "scale", afresh=False, on_change=on_change)


def _again(
    plan: Plan,
    state: ServiceState,
    progress: Progress,
    *,
    count: int | None = None,
    fingerprint: str | None = None,
) -> Prepared:
    """The plan of a set made again, beside the memory that the running one gives back."""
    request = exporting.request_again(plan, reread=True)
    held = state.measured
    given = dict(request.given) | ({} if count is None else {"replicas": count})
    returned = Returned(held.ram_peak_bytes or 0, held.gpu_peak_bytes or 0)
    return prepare(
        replace(
            request,
            given=given,
            fetch=count is None,
            as_set=True,
            returned=returned,
            expect_fingerprint=fingerprint,
        ),
        progress,
    )


def _require_same_profile(plan: Plan) -> None:
    change = None if plan.origin is None else exporting.changed(plan.origin)
    if change is None:
        return
    raise QlaunchError(
        f"{change}: replicas of two kinds would answer for one service",
        code="profile_changed",
        exit_code=ExitCode.CONFLICT,
        fix=f"have all of them run the new one first: qlaunch restart {plan.service} --reread",
    )


def can_roll(state: ServiceState, plan: Plan) -> bool:
    """Whether a service can be started again replica by replica."""
    return plan.replica_set is not None and state.state in {"ready", "degraded", "backoff"}


def reread(plan: Plan, state: ServiceState, progress: Progress) -> Plan:
    """The plan of a set made from what its profile and checkpoint say now, fit to be rolled out.

    Raises:
        QlaunchError: `does_not_fit` (exit 4); `not_rolling` (exit 9): what clients see of it
            changes, which the replicas that go on serving would contradict.
    """
    prepared = _again(plan, state, progress)
    require_fit(prepared)
    if same_front(plan, prepared.plan):
        return prepared.plan
    raise QlaunchError(
        f"the address, the cache or the model of {plan.service!r} would change, which cannot be"
        " done one replica after another",
        code="not_rolling",
        exit_code=ExitCode.CONFLICT,
        fix=f"stop all and start again: qlaunch restart {plan.service} --reread --at-once",
    )


def rolled(plan: Plan, on_change: Watch) -> ServiceState:
    """Have every replica of a set started again with `plan`, one after another.

    Raises:
        QlaunchError: what the change failed by: the set is as it was. `replicas_differ` (exit 7):
            the new vectors are others.
    """
    return asking.change(plan, "restart", afresh=True, on_change=on_change)
