"""Whose a service's name is: a set has the names of its replicas, and starts and ends them."""

from __future__ import annotations

from launcher.documents.plan import Plan
from launcher.documents.service_state import at_work
from launcher.errors import ExitCode, QlaunchError
from launcher.service import recover, store
from launcher.service.replica_set.naming import replica_name


def require_names(plan: Plan) -> None:
    """Refuse a start that would take a name of others, or whose own replicas' names are taken.

    Raises:
        QlaunchError: `is_replica`, `name_taken` (exit 9); `bad_service_name` (exit 2).
    """
    if plan.part_of is None:
        refuse_replica(plan.service)
    if plan.replica_set is None:
        return
    for number in range(1, plan.replica_set.count + 1):
        _require_ours(replica_name(plan.service, number), plan.service)


def _require_ours(name: str, service: str) -> None:
    where = store.folder(name)
    if not where.plan.exists():
        return
    try:
        owner = store.read_plan(where).part_of
    except QlaunchError:
        return  # a damaged plan is nobody's
    if owner == service:
        return
    raise QlaunchError(
        f"replica {name!r} of {service!r} would take the place of another service of that name",
        code="name_taken",
        exit_code=ExitCode.CONFLICT,
        fix=f"give another name with --name; or qlaunch down {name}, then qlaunch forget {name}",
    )


def set_of(name: str) -> str | None:
    """The set at work that service `name` is a replica of; None where it stands alone."""
    state = store.read_state(name)
    if state is None or state.part_of is None:
        return None
    owner = recover.settle(state.part_of)
    return state.part_of if owner is not None and at_work(owner) else None


def refuse_replica(name: str) -> None:
    """Refuse to start, stop or forget a replica of a set at work: the set would start it again.

    Raises:
        QlaunchError: `is_replica` (exit 9).
    """
    owner = set_of(name)
    if owner is None:
        return
    raise QlaunchError(
        f"{name!r} is a replica of service {owner!r}, which keeps it running",
        code="is_replica",
        exit_code=ExitCode.CONFLICT,
        fix=f"qlaunch scale {owner} N for fewer, qlaunch restart {owner} to start all again, or "
        f"qlaunch down {owner}",
    )
