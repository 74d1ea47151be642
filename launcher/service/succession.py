"""A restart that costs no import: the supervisor executes its own successor.

A template (supervisor/template.py) is a child of its supervisor and dies with it, so a new
supervisor cannot take it over. The old one can: asked by SIGUSR2 it stops the service as `down`
does, but for the template, and waits. Asked again it executes the program that the command names,
as the same process with the same children: a new supervisor of the new plan, in the environment of
the command, that inherits the template. Where any of this is not to be had, the service is stopped
and started by a new process.

Nothing waits for ever: a supervisor whose command has ended ends, and its template with it.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from typing import Final

import msgspec

from launcher.linux import processes
from launcher.linux.files import read_bounded, write_atomic
from launcher.linux.processes import ProcessId
from launcher.service import detach
from launcher.service.store import Folder

ASK: Final = signal.SIGUSR2
WAIT_S: Final = 120.0
"""For a command to make a new plan of profile and checkpoint: seconds."""
ENVIRONMENT_BYTES: Final = 8 * 1024 * 1024
"""More than the kernel lets a process be started with."""
_FILE: Final = "successor.json"


class Heir(msgspec.Struct, frozen=True, kw_only=True):
    """What a command asks of the supervisor that it wants to have succeeded."""

    command: ProcessId
    argv: tuple[str, ...] = ()
    """The next supervisor's; empty while its plan is being made."""
    environment: int = -1
    """Descriptor of the command at which the environment lies, as JSON: it is on no disk."""


def leave(where: Folder, heir: Heir) -> None:
    """Write what the supervisor is to read when it is asked.

    Raises:
        OSError: the disk is full.
    """
    write_atomic(where.path / _FILE, msgspec.json.encode(heir))


def clear(where: Folder) -> None:
    """Remove it."""
    (where.path / _FILE).unlink(missing_ok=True)


def is_asked(where: Folder) -> bool:
    """Whether a live command wants the supervisor to be succeeded: anybody can send a signal."""
    heir = _read(where)
    return heir is not None and processes.is_alive(heir.command)


def be_succeeded(where: Folder, bequest: Mapping[str, str]) -> None:
    """Wait for the successor's program, and execute it; returns where there is none.

    `bequest`: variables by which the heir finds the template. SIGUSR2 is blocked.
    """
    heir = _asked(where)
    environment = None if heir is None else _environment_of(heir)
    if heir is None or environment is None or not heir.argv:
        clear(where)
        return
    detach.begin_log(where)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {ASK})
    program, *_ = heir.argv
    os.execve(program, heir.argv, {**environment, **bequest})  # noqa: S606 - no shell


def _asked(where: Folder) -> Heir | None:
    """What the command has left for us once it asks again; None where it does not."""
    heir, deadline = _read(where), time.monotonic() + WAIT_S
    while heir is not None and processes.is_alive(heir.command) and time.monotonic() < deadline:
        if signal.sigtimedwait({ASK}, 0.2) is not None:
            return _read(where)
    return None


def _read(where: Folder) -> Heir | None:
    try:
        data = read_bounded(where.path / _FILE, ENVIRONMENT_BYTES)
        return msgspec.json.decode(data, type=Heir)
    except (OSError, ValueError, msgspec.MsgspecError):
        return None


def _environment_of(heir: Heir) -> dict[str, str] | None:
    """The command's environment; None where it cannot be read: it may have ended."""
    try:
        with open(f"/proc/{heir.command.pid}/fd/{heir.environment}", "rb") as file:  # noqa: PTH123
            found = json.loads(file.read(ENVIRONMENT_BYTES))
    except (OSError, ValueError):
        return None
    return dict(found) if processes.is_alive(heir.command) else None
