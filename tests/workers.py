"""How pytest-xdist's workers share the tests: `make test` runs several, a plain pytest none."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from xdist.scheduler import LoadScopeScheduling

from launcher.service import ports

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

ENGINE = "tests/engine_real/"
FORKED = (
    "tests/engine_real/test_checkpoint_matrix.py",
    "tests/engine_real/test_families.py",
)
"""Engines of no more than a second or two, forked from one process: beside the others they fill the
core that those leave idle."""
WAITING = ("tests/service/", "tests/environments/", "tests/cli/test_compare.py")
"""Seconds a test, most of them spent waiting: handed out one by one, and last, when no worker may
be left with many of them."""

ALL_PORTS = ports.PICK
"""What a process other than a worker picks from."""


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Any worker takes any file, but one worker takes all tests that serve with the real engine.

    More engines at once would starve each other, and fixtures share what is running. These take
    longest and so begin first, and what is forked begins second.
    """

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(FORKED):
            return FORKED[0]
        if nodeid.startswith(ENGINE):
            return ENGINE
        return nodeid if nodeid.startswith(WAITING) else nodeid.partition("::")[0]

    def _assign_work_unit(self, node: WorkerController) -> None:
        for first in (FORKED[0], ENGINE):
            if first in self.workqueue:
                self.workqueue.move_to_end(first, last=False)
        super()._assign_work_unit(node)


def take_ports_of_its_own() -> None:
    """A port that one worker picked, and does not listen on yet, must not be picked by another."""
    name, count = os.environ.get("PYTEST_XDIST_WORKER"), os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if name is None or count is None:
        return
    first, last = ports.PICK
    share = (last - first + 1) // int(count)
    number = int(name.removeprefix("gw"))
    ports.PICK = (first + number * share, first + (number + 1) * share - 1)
