"""Who holds what an engine needs or should have let go of: its port, the GPU's memory."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from launcher.documents.failure import Failure
from launcher.errors import QlaunchError
from launcher.service import failures, ports, restarting
from launcher.service.store import Folder, Lock
from launcher.service.supervisor.run_recorder import RunRecorder
from launcher.service.supervisor.state_writer import Members

MOVES = 3
"""Ports that may be lost before the machine is taken for one where none can be had."""


class PortReservation:
    """One port of a service, and everything that is asked about holders."""

    def __init__(self, where: Folder, host: str, port: int, *, movable: bool = False) -> None:
        """`port` 0: a free one, from `take_port` on, and at a restart the same; `movable`: another
        one each time that somebody else has taken it, for no client knows it."""
        self._movable = movable
        self._moves = 0
        self._root, self._host, self._wanted = where.path.parent, host, port
        self._before = 0 if port or movable else restarting.port_before(where)
        self._lock: Lock | None = None
        self.port = port

    @property
    def url(self) -> str:
        """`http://host:port/v1`, as this machine reaches it."""
        return ports.url(self._host, self.port)

    def take_port(self) -> None:
        """Reserve the port among our services, once, and see that nobody listens on it.

        Raises:
            QlaunchError: `port_taken` (exit 9) and the other refusals of `ports.check_free`.
            OSError: the lock file cannot be made.
        """
        if self._lock is None:
            place = (self._root, self._host, self._wanted)
            self.port, self._lock = ports.claim(*place, before=self._before)
            self._before = 0  # lost after all, it is not tried again
        try:
            ports.check_free(self._host, self.port)
        except QlaunchError as error:
            if not self._movable or error.code != "port_taken":
                raise
            self.release()
            self.port, self._lock = ports.claim(self._root, self._host, self._wanted)

    def release(self) -> None:
        """Give the reservation back."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def move(self, *, known: bool) -> bool:
        """Give up a port that somebody else has taken, where any would do; whether that is so.

        `known`: the service was answered on it, so that clients may know it.
        """
        if self._wanted or (known and not self._movable) or self._moves == MOVES:
            return False
        self._moves += 1
        self.release()
        return True

    def port_taken(self) -> Failure:
        """The failure of an engine whose port somebody else has, naming them."""
        return failures.from_error(ports.taken(self._host, self.port, ports.holder(self.port)))

    def of_port(self, failure: Failure | None, ever: Collection[int]) -> str | None:
        """Who still holds the port of an engine that was stopped after `failure`; None: nobody.

        `ever`: processes that were seen of it. A stranger on a port that may move is no leftover,
        nor is anybody on one that was given up.
        """
        if self._lock is None:
            return None
        try:
            ports.check_free(self._host, self.port)
        except QlaunchError as error:
            # Where the port was lost to somebody else, that is the failure, not a leftover.
            lost = failure is not None and failure.code == "port_taken"
            holders = ports.owner_pids(self.port) if self._movable else []
            lost = lost or (bool(holders) and not set(holders) & set(ever))
            return None if lost else error.message
        return None

    def named(self, failure: Failure, roll: Members, recorder: RunRecorder) -> Failure:
        """`failure` with whoever holds the port, or memory of the GPU, where that is why."""
        kind = failure.failure_class or ""
        if kind == "port_taken" and self._is_a_strangers(roll):
            found = self.port_taken()
            return msgspec.structs.replace(
                found, failure_class=kind, evidence=failure.evidence or found.evidence
            )
        if kind.startswith(("gpu_oom", "gpu_shared", "kv_budget")):
            others = recorder.gpu_others(roll.ever)
            return msgspec.structs.replace(failure, evidence=(*failure.evidence, *others))
        return failure

    def _is_a_strangers(self, roll: Members) -> bool:
        return ports.ownership(roll.pids(), self._host, self.port) != "ours"
