"""Forgetting a service that is over: its plan, state and locks. Its run records stay."""

from __future__ import annotations

from launcher.documents.service_state import at_work
from launcher.errors import ExitCode, QlaunchError
from launcher.linux.removal import bytes_of, discard
from launcher.service import control, reading, store
from launcher.service.recover import settle
from launcher.service.replica_set import claims

_WAIT_S = 5.0
"""For an `up` or `down` of it that is at work."""


def forget(name: str) -> int:
    """Remove what is known of service `name`; returns the bytes that this freed.

    Raises:
        QlaunchError: `no_such_service` (3); `in_use` (9) while it runs or may run, `busy` (9),
            `runs_elsewhere` (9); `stop_incomplete` (1) where processes of an earlier life resist;
            `not_removed` (1).
    """
    where = store.folder(name)
    if not where.path.is_dir():
        control.status(name)  # says which there are
    claims.refuse_replica(name)
    with control.sole(where, wait_s=_WAIT_S):
        state = settle(name)
        if state is not None and (refusal := reading.elsewhere(name, state)) is not None:
            raise refusal
        if control.supervisor_of(where, state) is not None or (state and at_work(state)):
            raise QlaunchError(
                f"service {name!r} is running ({state.state if state else 'starting'})",
                code="in_use",
                exit_code=ExitCode.CONFLICT,
                fix=f"stop it first: qlaunch down {name}",
            )
        if left := control.ended_leftovers(where, state):
            raise QlaunchError(
                f"processes of service {name!r} do not end: {', '.join(left)}",
                code="stop_incomplete",
                exit_code=ExitCode.UNEXPECTED,
                fix="end them by their pid",
            )
        members = [store.folder(each).path for each in _replicas(name)]
        freed = sum(bytes_of(path) for path in (where.path, *members))
        for path in (*members, where.path):
            discard(path)
    return freed


def _replicas(name: str) -> list[str]:
    """The services that were replicas of a set, those of earlier times too."""
    states = (store.read_state(each) for each in store.list_services())
    return [state.service for state in states if state is not None and state.part_of == name]
