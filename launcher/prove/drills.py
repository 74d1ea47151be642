"""Kill drills: what must happen to a service when a process of it is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from launcher.documents.proof import StepRecord
from launcher.prove import calls
from launcher.prove.agenda import Step

_POLL_S: Final = 1.0


def run(step: Step, limit_s: float) -> StepRecord:
    """Do the drill; the record says what was seen, never raises for it."""
    (service,) = step.words
    began = time.monotonic()
    first = calls.call(step.name, ("status", service), limit_s)
    drill = _engine if step.kind == "engine_killed" else _supervisor
    why = drill(service, first.data, began + limit_s)
    return msgspec.structs.replace(
        first,
        command=f"kill -9 of {step.kind.partition('_')[0]} of {service}",
        outcome="ok" if why is None else "failed",
        why=why,
        exit_code=None,
        seconds=round(time.monotonic() - began, 2),
        data={"seconds_until_as_it_must_be": round(time.monotonic() - began, 2)},
    )


def _engine(service: str, status: Mapping[str, Any], until: float) -> str | None:
    """Kill the engine's leader: another one must serve; None where it does."""
    pid = status.get("pid")
    if why := _kill(pid, "engine"):
        return why

    def again() -> bool:
        found = calls.call("", ("status", service), 30.0).data
        return found.get("state") == "ready" and found.get("pid") not in (None, pid)

    return _within(again, until, "no other engine was ready in time")


def _supervisor(service: str, status: Mapping[str, Any], until: float) -> str | None:
    """Kill the supervisor: its engine must end with it, and `status` must say so."""
    pid = status.get("pid")
    if why := _kill(status.get("supervisor_pid"), "supervisor"):
        return why

    def gone() -> bool:
        found = calls.call("", ("status", service), 30.0)
        return found.exit_code == 3 and not _alive(pid)

    return _within(gone, until, "its engine lived on, or status still calls it running")


def _kill(pid: object, what: str) -> str | None:
    """Kill a process that `status` named; why not, where that failed."""
    if not isinstance(pid, int) or pid <= 1:
        return f"status names no {what}"
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError as error:
        return f"the {what} (PID {pid}) cannot be killed: {error.strerror}"
    return None


def _alive(pid: object) -> bool:
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _within(check: Callable[[], bool], until: float, why: str) -> str | None:
    while not check():
        if time.monotonic() > until:
            return why
        time.sleep(_POLL_S)
    return None
