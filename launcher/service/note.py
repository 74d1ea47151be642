"""What a live supervisor leaves in its lock file: who and where it is, and that it moves.

`state.json` is replaced, which a full disk refuses; the lock file is there from the start and is
written over in place, which takes no space. So readers can tell a service that goes on from one
that only was: by the age of its last beat, and, where the state could not be written, by the words
that it would have had.
"""

from __future__ import annotations

import os
import time

import msgspec

from launcher.documents.service_state import ServiceState, State
from launcher.linux import processes
from launcher.linux.files import read_bounded
from launcher.linux.processes import ProcessId
from launcher.service.store import NOTE_BYTES, Folder

BEAT_S = 2.0
"""Between two notes of a supervisor: 2 kB into the page cache."""
SILENT_S = 20.0
"""Without a note for that long a supervisor does not move. Its longest wait, on a slow disk or a
machine that is short of everything, is a few seconds."""
_DETAIL_CHARS = 240


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """One note. The first fields are those of the supervisor's `ProcessId`."""

    pid: int
    start_ticks: int
    boot_id: str
    namespace: int = 0
    host: str = ""
    at: float | None = None
    """Monotonic seconds of this boot; None where an earlier release wrote it."""
    run: str = ""
    state: State = "unknown"
    since: str = ""
    detail: str = ""
    engine: ProcessId | None = None
    restarts: int = 0
    unwritten: str = ""
    """Why `state.json` could not be written; empty where it holds the same as this."""

    @property
    def supervisor(self) -> ProcessId:
        """Who wrote it."""
        return ProcessId(
            pid=self.pid,
            start_ticks=self.start_ticks,
            boot_id=self.boot_id,
            namespace=self.namespace,
        )

    @property
    def age_s(self) -> float | None:
        """Seconds since it was written, suspended time not counted; None where clocks differ."""
        if self.at is None or self.boot_id != processes.boot_id():
            return None
        age = time.monotonic() - self.at
        if age < -1.0:
            return None  # a time namespace of its own: nothing can be said
        return max(0.0, age)  # what was written is rounded, and may lie a millisecond ahead


def of(me: ProcessId, state: ServiceState, unwritten: OSError | None) -> bytes:
    """The bytes of a note about `state`, always as many."""
    for chars in (_DETAIL_CHARS, 40, 0):
        note = Note(
            pid=me.pid,
            start_ticks=me.start_ticks,
            boot_id=me.boot_id,
            namespace=me.namespace,
            host=processes.host(),
            at=round(time.monotonic(), 3),
            run=state.run,
            state=state.state,
            since=state.since,
            detail=state.detail[:chars],
            engine=state.engine,
            restarts=state.restarts,
            unwritten="" if unwritten is None else os.strerror(unwritten.errno or 0),
        )
        data = msgspec.json.encode(note)
        if len(data) <= NOTE_BYTES:
            break
    return data.ljust(NOTE_BYTES)


def read(where: Folder) -> Note | None:
    """The last note in the lock file; None if there is none, or it cannot be read."""
    for _ in range(3):
        try:
            return msgspec.json.decode(read_bounded(where.lock, NOTE_BYTES), type=Note)
        except OSError:
            return None
        except (ValueError, msgspec.MsgspecError):
            time.sleep(0.001)  # read in the middle of a write, perhaps
    return None
