"""What a `restart` says of itself in the service's folder, while it is at work.

Between its two lives a service is stopped, and its state says so: whoever watches it would take it
for over. And a service that takes any free port would come back at another address, which its
clients do not know. The note counts for as long as the command that wrote it lives.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import msgspec

from launcher.documents.plan import Plan
from launcher.documents.service_state import GONE, ServiceState
from launcher.linux import processes
from launcher.linux.files import read_bounded, write_atomic
from launcher.linux.processes import ProcessId
from launcher.service.store import Folder

_FILE: Final = "restarting.json"
_BYTES: Final = 4096


class _Note(msgspec.Struct, frozen=True, kw_only=True):
    command: ProcessId
    run: str
    """The life that ends."""
    port: int = 0
    """That it had, where any would have done; else 0."""


@contextlib.contextmanager
def announced(where: Folder, state: ServiceState, plan: Plan) -> Iterator[None]:
    """Within it `state`, of a service that ran `plan`, is stopped and started again."""
    me = processes.process_id(os.getpid())
    port = urlsplit(state.endpoint or "").port or 0
    with contextlib.suppress(OSError):  # a full disk: then readers hear what is written
        if me is not None:
            found = _Note(command=me, run=state.run, port=0 if plan.port else port)
            write_atomic(where.path / _FILE, msgspec.json.encode(found))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (where.path / _FILE).unlink(missing_ok=True)


def understood(where: Folder, state: ServiceState) -> ServiceState:
    """`state`, which is settled, as readers are told it: a pause between two lives is no end."""
    if state.state not in GONE or (found := _read(where)) is None or found.run != state.run:
        return state
    detail = f"between two lives: process {found.command.pid} (restart) starts it again"
    return msgspec.structs.replace(state, state="starting", engine=None, detail=detail)


def port_before(where: Folder) -> int:
    """The port that a service which is being started again is to have, where it is free; else 0."""
    found = _read(where)
    return 0 if found is None else found.port


def _read(where: Folder) -> _Note | None:
    try:
        found = msgspec.json.decode(read_bounded(where.path / _FILE, _BYTES), type=_Note)
    except (OSError, ValueError):
        return None
    return found if processes.is_alive(found.command) else None
