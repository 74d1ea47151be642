"""How pytest-xdist's workers share the tests: `make test` runs several, a plain pytest none."""

from __future__ import annotations

import os

from xdist.scheduler import LoadScopeScheduling

from launcher.service import ports

ENGINE = "tests/engine_real/"
ALONE = "tests/engine_real/test_checkpoint_matrix.py"
"""A fourth of the real engine's time, and engines of no more than a second or two: beside the
others it fills the core that they leave idle."""

ALL_PORTS = ports.PICK
"""What a process other than a worker picks from."""


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Any worker takes any test, but one worker takes all of those that serve with the real engine.

    More engines at once would starve each other, and fixtures share what is running. They are the
    largest group and so begin first, and the matrix of checkpoints begins second.
    """

    def _split_scope(self, nodeid: str) -> str:
        return next((group for group in (ALONE, ENGINE) if nodeid.startswith(group)), nodeid)


def take_ports_of_its_own() -> None:
    """A port that one worker picked, and does not listen on yet, must not be picked by another."""
    name, count = os.environ.get("PYTEST_XDIST_WORKER"), os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if name is None or count is None:
        return
    first, last = ports.PICK
    share = (last - first + 1) // int(count)
    number = int(name.removeprefix("gw"))
    ports.PICK = (first + number * share, first + (number + 1) * share - 1)
