"""What a reader does with a written state: believes it, doubts it, or settles it.

Of a supervisor that lives, `reading` says what can be believed. One that is gone without a last
word is settled:

The engine died with its supervisor (`PR_SET_PDEATHSIG`), and so did its children; what left the
session and lost its parent may still be there. It is found by what the supervisor wrote down
(tree.json, by identity) and by our marker in its environment, and ended. Then the state says
`failed`. All of this happens under the dead supervisor's own lock, so that one settles, once, and
never beside a live one.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from launcher.documents.service_state import FINAL, ReplicaState, ServiceState
from launcher.linux import processes, procfs
from launcher.linux.files import read_bounded, write_atomic
from launcher.linux.processes import ProcessId
from launcher.paths import dirs
from launcher.record.runs import decode_run
from launcher.service import failures, note, reading, scratch, store
from launcher.service.store import Folder, Lock
from launcher.units import now

MARKER = "QLAUNCH_RUN"
"""Variable in the environment of every process of an engine: the run it belongs to."""
SETTLING_S = 4.0
"""What settling takes at most: 3 s for the kernel to end what got SIGKILL."""
ELSEWHERE_S = 0.5
"""For a lock that another machine seems to hold: another reader may be settling."""
_RUN_LIMIT = 16 * 1024 * 1024


def settle(name: str) -> ServiceState | None:
    """The state of service `name`, made true if its supervisor is gone; None if it has none.

    Raises:
        QlaunchError: `bad_service_name` (exit 2).
    """
    state = store.read_state(name)
    if state is None or state.state in FINAL:
        return state
    where = store.folder(name)
    if processes.is_alive(state.supervisor):
        return reading.living(where, state)
    lock = Lock(where.lock)
    try:
        if not _acquire(lock, where, state):
            return _taken(where)  # a new supervisor has just taken over, or it is not of here
    except OSError as error:
        return store.unreadable(name, f"{where.lock} cannot be locked: {error.strerror}")
    with lock:
        state = store.read_state(name)  # it may have changed before we had the lock
        if state is None or state.state in FINAL or processes.is_alive(state.supervisor):
            return state
        return reading.unsure(where, state) or _bury(where, state)


def _taken(where: Folder) -> ServiceState | None:
    """The state of a service whose lock somebody holds."""
    state = store.read_state(where.name)
    if state is None or state.state in FINAL or state.supervisor is None:
        return state
    if processes.is_alive(state.supervisor):
        return reading.living(where, state)
    return state if processes.is_here(state.supervisor) else reading.distant(where, state)


def _acquire(lock: Lock, where: Folder, state: ServiceState) -> bool:
    """Take the dead supervisor's lock; wait for another reader that is settling right now."""
    deadline = time.monotonic() + _patience_s(where, state)
    while not lock.acquire():
        if store.lock_holder(where) is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _patience_s(where: Folder, state: ServiceState) -> float:
    """Seconds to wait for a lock: none where its holder is known to live elsewhere."""
    assert state.supervisor is not None
    if processes.is_here(state.supervisor):
        return SETTLING_S
    found = note.read(where)
    age = None if found is None else found.age_s
    if age is not None and age < note.SILENT_S:
        return 0.0
    return SETTLING_S if state.host in {"", processes.host()} else ELSEWHERE_S


def leftovers(where: Folder, state: ServiceState) -> list[ProcessId]:
    """Live processes of the engine of a dead supervisor."""
    known = store.read_tree(where)
    if state.engine is not None:
        known.append(state.engine)
    known += processes.marked(f"{MARKER}={state.run}")
    found = {one: None for one in known if processes.is_alive(one)}
    table = processes.all_processes()
    for pid in procfs.descendants([one.pid for one in found], table):
        if not table[pid].dead:
            found.setdefault(processes.identity_of(table[pid]))
    return [one for one in found if one.pid > 1 and processes.may_signal(one)]


def _bury(where: Folder, state: ServiceState) -> ServiceState:
    from launcher.service.process_tree import kill_leftovers

    left = kill_leftovers(leftovers(where, state))
    replicas = tuple(map(_bury_replica, state.replicas))
    scratch.sweep(os.environ, spare=where.path)
    if not left and (said := reading.last_words(where, state)) is not None:
        return said
    failure = failures.supervisor_gone(str(where.log))
    if left:
        names = ", ".join(processes.describe(one) for one in left)
        message = f"the supervisor was killed, and its engine's process {names} cannot be ended"
        failure = msgspec.structs.replace(failure, message=message)
    settled = msgspec.structs.replace(
        state,
        state="failed",
        since=now(),
        engine=state.engine if left else None,
        replicas=replicas,
        failure=failure,
        detail=failure.message,
    )
    try:
        _sweep(where.path, "state.json", "tree.json", "engine-secrets.yaml")
        where.secrets_config.unlink(missing_ok=True)
        if not left:
            where.tree.unlink(missing_ok=True)
        store.write_state(where, settled)
    except OSError as error:
        # A full or read-only disk, which may be why it ended: told now, and again the next time.
        if not left:
            failure = failures.end_not_written(store.not_written(where.path, error))
            settled = msgspec.structs.replace(settled, failure=failure, detail=failure.message)
    _close_record(settled)
    return settled


def _bury_replica(replica: ReplicaState) -> ReplicaState:
    """A replica whose supervisor died with that of its set."""
    state = settle(replica.service)
    return msgspec.structs.replace(
        replica,
        state="failed" if state is None else state.state,
        serving=False,
        endpoint=None,
        supervisor=None,
        engine=None,
        detail="" if state is None else state.detail,
    )


def _close_record(state: ServiceState) -> None:
    """Say in the run record, too, that the run is over."""
    path = dirs().runs / state.run / "run.json"
    try:
        _sweep(path.parent, "*")
        run = decode_run(read_bounded(path, _RUN_LIMIT))
        if run.outcome == "running":
            ended = msgspec.structs.replace(
                run, outcome="failed", ended=state.since, failure=state.failure
            )
            write_atomic(path, msgspec.json.encode(ended))
    except (OSError, ValueError, msgspec.MsgspecError):
        return  # no record, or a damaged one: there is nothing to close


def _sweep(folder: Path, *names: str) -> None:
    """Remove what a writer that was killed within `write_atomic` left beside these files."""
    for name in names:
        for path in folder.glob(f".{name}.*.tmp"):
            path.unlink(missing_ok=True)
