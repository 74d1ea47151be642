from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.engine import releases
from launcher.engine.environments import install
from launcher.engine.release import Engine
from launcher.paths import Dirs, dirs
from tests.engine_real import qlaunch
from tests.engine_real.qlaunch import Home

HERE = Path(__file__).parent
INSTALL_S = 1800.0
"""A first install: 1 min 32 s and 3 GB where the index is near."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.engine)
            # The first test pays for the install; every command has a limit of its own.
            item.add_marker(pytest.mark.timeout(INSTALL_S + 300))


@pytest.fixture(scope="session")
def shared() -> Dirs:
    """The caller's own directories, with the cpu engine and MiniLM in them."""
    env = qlaunch.environment(None)
    found = dirs()
    if "QLAUNCH_HOME" in os.environ:
        env["QLAUNCH_HOME"] = os.environ["QLAUNCH_HOME"]
    qlaunch.finish(qlaunch.start(env, "engine", "install", "cpu", "--json"), INSTALL_S).ok()
    qlaunch.finish(qlaunch.start(env, "model", "pull", "all-minilm-l6-v2", "--json")).ok()
    return found


@pytest.fixture(scope="session")
def engine(shared: Dirs) -> Engine:
    """The installed cpu engine."""
    found = install.find(releases.release("cpu"), shared.engines)
    assert found is not None
    return found


@pytest.fixture(scope="session")
def new_home(
    shared: Dirs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Home]]:
    """Makes homes; at the end nothing of any of them may be running."""
    cache = tmp_path_factory.mktemp("cache")
    homes: list[Home] = []

    def make(name: str) -> Home:
        homes.append(Home(tmp_path_factory.mktemp(name) / "home", shared.data, cache))
        return homes[-1]

    yield make
    for home in homes:
        home.sweep()


@pytest.fixture
def home(new_home: Callable[[str], Home]) -> Iterator[Home]:
    """A home for one test."""
    made = new_home("one")
    yield made
    made.sweep()
