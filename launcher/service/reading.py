"""What a reader may believe of a written state, and what it says where that is not all.

A state is true for as long as its supervisor moves, and its supervisor can be asked for as long as
it runs in the reader's own PID namespace. Flocks are seen across the containers of one kernel: a
held lock says that a supervisor lives, wherever it is.
"""

from __future__ import annotations

import os
import re
import time

import msgspec

from launcher.documents.plan import Plan
from launcher.documents.service_state import GONE, UP, ServiceState
from launcher.errors import ExitCode, QlaunchError
from launcher.linux import mounts, processes, procfs
from launcher.linux.processes import ProcessId
from launcher.service import document, note
from launcher.service.note import Note
from launcher.service.store import Folder, folder, read_plan, signed

LOOK_S = 0.5
"""Between two looks at a supervisor that is waited for."""


def living(where: Folder, state: ServiceState) -> ServiceState:
    """`state` of a supervisor that lives here, as it can be believed now."""
    assert state.supervisor is not None
    why = stuck(where, state.supervisor)
    if why is not None:
        return _doubted(state, why)
    found = note.read(where)
    if found is not None and found.unwritten and found.run == state.run:
        return _as_noted(where, state, found)
    if state.state in UP and state.engine is not None and not processes.is_alive(state.engine):
        text = f"its engine's process {state.engine.pid} has ended"
        return msgspec.structs.replace(state, state="degraded", detail=text)
    return state


def stuck(where: Folder, supervisor: ProcessId) -> str | None:
    """Why a live supervisor answers nothing, in a sentence; None where it moves, or nobody knows.

    Args:
        where: folder of its service.
        supervisor: the process, which runs here.
    """
    if processes.is_stopped(supervisor):
        return (
            f"not answering: its supervisor (process {supervisor.pid}) is stopped (SIGSTOP); "
            f"kill -CONT {supervisor.pid} lets it go on"
        )
    found = note.read(where)
    if found is None or found.supervisor != supervisor:
        return None
    age = found.age_s
    if age is None or age < note.SILENT_S:
        return None
    return (
        f"not answering: its supervisor (process {supervisor.pid}) has not moved for {age:.0f} s; "
        f"see {where.log}"
    )


class Patience:
    """For whoever waits for a supervisor's next state: notices that it does not move."""

    def __init__(self, where: Folder, supervisor: ProcessId | None, limit_s: float) -> None:
        """Begin to wait; `limit_s` is how long the supervisor may stand still."""
        self._where, self._supervisor, self._limit_s = where, supervisor, limit_s
        self._since: float | None = None
        self._next = 0.0

    def doubt(self, state: ServiceState) -> ServiceState | None:
        """`state` with the doubt as its detail, once, where it stands still now; else None.

        Raises:
            QlaunchError: `supervisor_stuck` (exit 8): it has stood still for too long.
        """
        now = time.monotonic()
        if self._supervisor is None or now < self._next:
            return None
        self._next = now + LOOK_S
        why = stuck(self._where, self._supervisor)
        if why is None:
            self._since = None
            return None
        if self._since is None:
            self._since = now
            return msgspec.structs.replace(state, detail=why)
        if now - self._since < self._limit_s:
            return None
        raise QlaunchError(
            f"service {state.service!r}: {why}",
            code="supervisor_stuck",
            exit_code=ExitCode.TIMEOUT,
            fix=f"let it go on, or end it with qlaunch down {state.service}",
        )


def _doubted(state: ServiceState, why: str) -> ServiceState:
    return msgspec.structs.replace(state, state="unknown", detail=why, problem=why)


def _as_noted(where: Folder, state: ServiceState, found: Note) -> ServiceState:
    """What the supervisor would have written."""
    why = f"{where.state} cannot be written: {found.unwritten}"
    return msgspec.structs.replace(
        state,
        state=found.state,
        since=found.since,
        detail=found.detail,
        engine=found.engine,
        restarts=found.restarts,
        problem=why,
    )


def last_words(where: Folder, state: ServiceState) -> ServiceState | None:
    """The final state that a supervisor which has ended could not write; None if it left none."""
    found = note.read(where)
    if found is None or not found.unwritten or found.run != state.run or found.state not in GONE:
        return None
    if found.state == "failed":
        return None  # why, does not fit into a note
    return _as_noted(where, state, found)


def place(process: ProcessId, host: str) -> str:
    """Where a process is that does not run here, for a sentence."""
    named = f" ({host})" if host else ""
    if process.boot_id == processes.boot_id():
        return f"in another container or PID namespace of this machine{named}"
    return f"on another machine{named}, or before this one was started again"


def distant(where: Folder, state: ServiceState) -> ServiceState:
    """`state` of a supervisor that lives elsewhere: its lock is held."""
    assert state.supervisor is not None
    found = note.read(where)
    text = f"it runs {place(state.supervisor, state.host)}"
    age = None if found is None else found.age_s
    if age is not None and age >= note.SILENT_S:
        return _doubted(state, f"not answering: {text}, and has not moved for {age:.0f} s")
    if found is not None and found.unwritten and found.run == state.run:
        state = _as_noted(where, state, found)
        return msgspec.structs.replace(state, problem=f"{text}; {state.problem}")
    return msgspec.structs.replace(state, problem=text)


def unsure(where: Folder, state: ServiceState) -> ServiceState | None:
    """`state` where a free lock does not prove that its supervisor is gone; None where it does.

    A network file system may keep its locks to each machine.
    """
    process = state.supervisor
    if process is None or processes.is_here(process) or state.host in {"", processes.host()}:
        return None
    kind = mounts.network_kind(where.path)
    if kind is None:
        return None
    text = f"it was started {place(process, state.host)}, and {kind} does not tell whether "
    return _doubted(state, text + "it still runs: ask there")


def elsewhere(name: str, state: ServiceState) -> QlaunchError | None:
    """The refusal to start or stop a settled service that runs elsewhere; None if it does not."""
    process = state.supervisor
    if process is None or state.state in GONE or processes.is_here(process):
        return None
    if process.boot_id == processes.boot_id():
        fix = f"run it there, for example: docker exec CONTAINER qlaunch down {name}"
    else:
        fix = f"run it there; if that machine is gone for good, remove {folder(name).path}"
    return QlaunchError(
        f"service {name!r} cannot be signalled from here: {state.problem}",
        code="runs_elsewhere",
        exit_code=ExitCode.CONFLICT,
        fix=fix,
    )


def kept_by_another(state: ServiceState) -> QlaunchError | None:
    """The refusal to restart what a systemd unit or a container runs, with what does; else None.

    It would end there, well, and go on as a process of the command's own session; or the container
    would end with it.
    """
    process = state.supervisor
    if process is None or not processes.is_alive(process):
        return None
    if process.pid == 1:
        return QlaunchError(
            f"service {state.service!r} is the first process of its container, which would end",
            code="run_by_container",
            exit_code=ExitCode.CONFLICT,
            fix="restart the container, for example: docker restart CONTAINER",
        )
    environ = procfs.read(f"/proc/{process.pid}/environ", 1 << 20) or b""
    if not any(each.startswith(b"NOTIFY_SOCKET=") for each in environ.split(b"\0")):
        return None
    group = (procfs.read(f"/proc/{process.pid}/cgroup") or b"").decode("utf-8", "replace")
    unit = ["UNIT", *re.findall(r"[^/\n]+\.service", group)][-1]
    scope = "--user " if "/user@" in group else ""
    return QlaunchError(
        f"service {state.service!r} is run by systemd, and would leave it by this restart",
        code="run_by_systemd",
        exit_code=ExitCode.CONFLICT,
        fix=f"systemctl {scope}restart {unit}",
    )


def busy(where: Folder) -> QlaunchError:
    """The refusal to start or stop what another command does: which, for how long, and whether it
    goes on."""
    message = f"service {where.name!r} is being started or stopped by another command"
    fix = f"wait for it, then: qlaunch status {where.name}"
    if (holder := _at_work(where)) is not None:
        message += f": {_named(holder)}"
        if processes.is_stopped(holder):
            message += ", which is stopped (Ctrl-Z or SIGSTOP)"
            pid = holder.pid
            fix = f"let it go on: fg in its shell, or kill -CONT {pid}; or end it: kill -KILL {pid}"
    return QlaunchError(message, code="busy", exit_code=ExitCode.CONFLICT, fix=fix)


def stopped_meanwhile(where: Folder, state: ServiceState) -> QlaunchError:
    """The end of a start that somebody else stopped, or stopped and began anew."""
    name, again, holder = where.name, state.state != "stopped", _at_work(where)
    other = holder is not None and holder.pid != os.getpid()
    by = _named(holder) if holder is not None and other else "another command or a signal"
    fix = f"see what became of it: qlaunch status {name}"
    if not again and not other:
        fix += f"; to start it again: qlaunch restart {name}"
    return QlaunchError(
        f"service {name!r} was stopped{' and started again' if again else ''} "
        f"while it was starting, by {by}",
        code="stopped_meanwhile",
        exit_code=ExitCode.CONFLICT,
        fix=fix,
        data=document.status_of(state),
    )


def _at_work(where: Folder) -> ProcessId | None:
    """The command that last started or stopped the service, where its process still runs."""
    holder = signed(where.up_lock)
    return holder if processes.is_alive(holder) else None


def _named(command: ProcessId) -> str:
    return f"process {processes.describe(command)}, {processes.age_s(command):.0f} s old"


def other_model(plan: Plan) -> str | None:
    """The path of the model that the service of this name was started with, if it is not `plan`'s:
    two folders of one name make services of one name."""
    try:
        running = read_plan(folder(plan.service))
    except QlaunchError:
        return None
    return None if running.fingerprint == plan.fingerprint else running.model_path
