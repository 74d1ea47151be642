"""The state of a service as its supervisor holds it, and the journal it writes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import msgspec

from launcher.documents.plan import Plan
from launcher.documents.run import Peak, Phase
from launcher.documents.service_state import (
    FINAL,
    UP,
    ExecutedEngine,
    GatewayState,
    ServiceState,
    StartLimit,
    State,
)
from launcher.linux import processes
from launcher.linux.processes import ProcessId
from launcher.service import note, store
from launcher.service.process_tree import Tree
from launcher.service.store import Folder, Lock
from launcher.service.supervisor import states, systemd_notify
from launcher.service.supervisor.engine_log import LogFile
from launcher.service.supervisor.event_loop import Loop
from launcher.service.supervisor.http_probe import seconds_since
from launcher.units import now

JOURNAL_BYTES = 2 * 1024 * 1024
"""Two files of this size: a service that flaps for years must not fill the disk."""


class Journal:
    """`supervisor.log`: what the supervisor did, one line each, scrubbed and bounded."""

    def __init__(self, where: Folder, clean: Callable[[str], str]) -> None:
        self._file = LogFile(where.log, JOURNAL_BYTES)
        self._clean = clean

    def write(self, text: str) -> None:
        """Add a line; a full disk is not a reason to stop serving."""
        self._file.write(self._clean(f"{now()} {text}").rstrip("\n") + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class StateWriter:
    """One value, replaced and published as a whole on every change."""

    def __init__(
        self,
        where: Folder,
        state: ServiceState,
        *,
        began: float,
        journal: Journal,
        lock: Lock,
        on_change: Callable[[ServiceState], object] | None = None,
        may_follow: Callable[[State, State], bool] = states.may_follow,
    ) -> None:
        """Publish `state`. `began` is the monotonic time from which phases count.

        `lock` is the service's own, held: its file tells the state where the disk is full.
        `may_follow` is the contract: from which state to which.

        Raises:
            OSError: the state cannot be written: then nothing has been started yet.
        """
        self._where, self._began, self._journal, self._lock = where, began, journal, lock
        self._on_change, self._may_follow = on_change, may_follow
        self.now = state
        self.unwritten: OSError | None = None
        """Why the last attempt to write the state failed."""
        self._mute_beats = False
        store.write_state(where, state)
        self._written = _stamp(where)
        self._ever_up = False
        self.note()
        self._tell()

    @property
    def state(self) -> State:
        """Where the service is now."""
        return self.now.state

    @property
    def final(self) -> bool:
        """Whether it will not change any more."""
        return self.now.state in FINAL

    @property
    def mute(self) -> OSError | None:
        """Why nobody could hear that the service came up; None once it has been told."""
        return None if self._ever_up else self.unwritten

    def enter(self, state: State, detail: str = "", **changes: Any) -> None:
        """Go to `state`, which the contract must allow, and publish.

        Raises:
            ValueError: the contract does not allow it: a fault in the supervisor.
        """
        if not self._may_follow(self.now.state, state):
            raise ValueError(f"a service cannot go from {self.now.state} to {state}")
        t_s = round(time.monotonic() - self._began, 3)
        self.now = msgspec.structs.replace(
            self.now,
            state=state,
            since=now(),
            detail=detail,
            phases=(*self.now.phases[-99:], Phase(name=state, t_s=t_s)),
            **changes,
        )
        self._journal.write(f"{state} {detail}".strip())
        self.publish()
        self._tell()

    def change(self, **changes: Any) -> None:
        """Change other fields, and publish if that changed anything."""
        changed = msgspec.structs.replace(self.now, **changes)
        if changed != self.now:
            self.now = changed
            self.publish()
            if "detail" in changes:
                self._tell()

    def publish(self) -> None:
        """Write `state.json`. A full disk is told to the journal; the engine goes on serving."""
        if self._lock.displaced():  # the folder was removed, and is another supervisor's now
            return
        try:
            store.write_state(self._where, self.now)
            self._written = _stamp(self._where)
            self.unwritten = None
            self._ever_up = self._ever_up or self.now.state in UP
        except OSError as error:
            if self.unwritten is None:  # once: it is tried again every other second
                self._journal.write(f"cannot write {self._where.state}: {error.strerror or error}")
            self.unwritten = error
        self.note()

    def note(self) -> None:
        """Leave in the lock file that we move, and the state, should the disk have refused it."""
        if (me := self.now.supervisor) is None:
            return
        try:
            self._lock.write(note.of(me, self.now, self.unwritten))
            self._mute_beats = False
        except OSError as error:
            if not self._mute_beats:  # once: there is one every other second
                self._journal.write(f"cannot write {self._where.lock}: {error.strerror or error}")
            self._mute_beats = True

    def keep_noting(self, loop: Loop) -> None:
        """From now on tell readers every other second that we move.

        Write the state again where the disk refused it, or where somebody removed or changed it.
        """

        def tell() -> None:
            if self.unwritten is not None or _stamp(self._where) != self._written:
                self.publish()
            else:
                self.note()
            loop.call_later(note.BEAT_S, tell)

        tell()

    def _tell(self) -> None:
        state = self.now
        lines = [
            f"STATUS={state.state}: {state.detail}" if state.detail else f"STATUS={state.state}"
        ]
        if state.state in UP:
            lines.insert(0, "READY=1")
        elif state.state in {"stopping", "stopped", "failed"}:
            lines.insert(0, "STOPPING=1")
        if os.environ.get("NOTIFY_SOCKET"):
            systemd_notify.notify(*lines)
        if self._on_change is not None:
            try:
                self._on_change(state)
            except OSError as error:  # a closed terminal is no reason to stop serving
                self._journal.write(f"nobody hears of the state: {error.strerror or error}")


def _stamp(where: Folder) -> tuple[int, int, int] | None:
    try:
        found = where.state.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


class Members:
    """`tree.json`: who belongs to the engine, for whoever has to clean up after a crash."""

    def __init__(self, where: Folder, journal: Journal, lock: Lock) -> None:
        self._where, self._journal, self._lock = where, journal, lock
        self._members: list[ProcessId] = []
        self.ever: set[int] = set()
        """PIDs of everything that was ever seen of this life."""
        self._beside: dict[str, ProcessId] = {}
        """By part: the template, which outlives a life, the gateway, a set's replicas."""

    def begin(self) -> None:
        """A new life: forget the last one's."""
        self.ever.clear()

    def gone(self) -> None:
        """No life is there: its processes have ended."""
        self._members = []
        self._write()

    def beside(self, part: str, process: ProcessId | None) -> None:
        """Another template or gateway, or none: it is measured and cleaned up with the engine.

        Of a set, the supervisors of its replicas too.
        """
        self._beside.pop(part, None)
        if process is not None:
            self._beside[part] = process
        self._write()

    def _write(self) -> None:
        if self._lock.displaced():
            return
        try:
            store.write_tree(self._where, [*self._members, *self._beside.values()])
        except OSError as error:  # no descriptors, no space: written again when it next changes
            self._journal.write(f"cannot note {self._where.tree}: {error.strerror or error}")

    def take(self, tree: Tree) -> None:
        """Look at the tree, and write down its members where they have changed."""
        try:
            members = tree.scan()
            if members != self._members:
                self._members = members
                self.ever.update(member.pid for member in members)
                self._write()
        except OSError as error:  # no descriptors: look again at the next sample
            self._journal.write(f"cannot look at the engine's tree: {error.strerror or error}")

    @property
    def members(self) -> list[ProcessId]:
        """The members when they were last looked at."""
        return list(self._members)

    def pids(self) -> list[int]:
        """PIDs of the members when they were last looked at."""
        return [member.pid for member in self._members]

    def measured(self) -> list[int]:
        """The same, template and gateway: whose memory is counted."""
        return [*self.pids(), *(process.pid for process in self._beside.values())]


def first_state(plan: Plan, run: str, measured: Peak, began: float) -> ServiceState:
    """The state of a service that this process has just begun to supervise."""
    return ServiceState(
        version=store.VERSION,
        service=plan.service,
        profile=plan.profile,
        state="starting",
        since=now(),
        run=run,
        endpoint=None,
        supervisor=processes.process_id(os.getpid()),
        engine=None,
        engine_plan=ExecutedEngine(
            release=plan.engine.release,
            version=plan.engine.version,
            argv=plan.engine.argv,
            env=plan.engine.env,
        ),
        predicted=plan.predicted,
        measured=measured,
        start_limit=StartLimit(
            budget_s=plan.start_budget_s,
            limit_s=plan.start_timeout_s,
            source=plan.start_budget_source or "no earlier start like this one is on record",
        ),
        phases=(Phase(name="starting", t_s=seconds_since(began)),),
        host=processes.host(),
        gateway=GatewayState(cached=plan.cache is not None) if plan.fronted else None,
        part_of=plan.part_of,
    )
