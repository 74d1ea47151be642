"""Which supervisor a plan asks for: that of one engine, or that of a set of them."""

from __future__ import annotations

from collections.abc import Callable

from launcher.documents.plan import Plan
from launcher.documents.service_state import ServiceState
from launcher.service import store, succession
from launcher.service.store import Folder
from launcher.service.supervisor.service_owner import ServiceOwner
from launcher.service.supervisor.timing import Dependencies


def supervisor_for(
    where: Folder,
    plan: Plan,
    wiring: Dependencies,
    *,
    began: float | None = None,
    foreground: bool = False,
    on_change: Callable[[ServiceState], object] | None = None,
) -> ServiceOwner:
    """The supervisor of a service; arguments as of `Supervisor`."""
    if plan.replica_set is not None:
        from launcher.service.replica_set.set_supervisor import SetSupervisor

        return SetSupervisor(
            where, plan, wiring, began=began, foreground=foreground, on_change=on_change
        )
    from launcher.service.supervisor.supervisor import Supervisor

    return Supervisor(where, plan, wiring, began=began, foreground=foreground, on_change=on_change)


def supervise(where: Folder, wiring: Dependencies, *, began: float | None = None) -> ServiceState:
    """Be the detached supervisor of the plan that lies in the folder; its last state.

    Returns only where nothing is executed in its place (succession.py).

    Raises:
        QlaunchError: as `ServiceOwner.run`; `plan_damaged` (exit 1), `no_such_service` (exit 3).
    """
    owner = supervisor_for(where, store.read_plan(where), wiring, began=began)
    state = owner.run()
    if (bequest := owner.bequest()) is not None:
        succession.be_succeeded(where, bequest)
    return state
