"""Which supervisor a plan asks for: that of one engine, or that of a set of them."""

from __future__ import annotations

from collections.abc import Callable

from launcher.documents.plan import Plan
from launcher.documents.service_state import ServiceState
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
