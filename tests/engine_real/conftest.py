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
from tests.engine_real.forked import Here, Many
from tests.engine_real.inside_process import Ask, Inside
from tests.engine_real.qlaunch import Finished, Home, alive, assert_port_is_free, finish, tree

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


class Running:
    """MiniLM in a service that several modules ask, each of which leaves it as it was."""

    def __init__(self, home: Home, up: Finished, loser: Finished) -> None:
        self.home, self.up, self.loser = home, up, loser
        self.data = up.data
        self.endpoint = str(self.data["endpoint"])


@pytest.fixture(scope="session")
def running(new_home: Callable[[str], Home]) -> Iterator[Running]:
    """cpu-minilm, started twice at once: it is the winner's, and its end is proved."""
    home = new_home("running")
    ups = [home.start("up", "cpu-minilm", "--port", "0", "--json") for _ in range(2)]
    winner, loser = sorted((finish(each) for each in ups), key=lambda done: done.code)
    made = Running(home, winner.ok(), loser)
    yield made
    processes = tree(made.data["supervisor_pid"])
    home.run("down", "cpu-minilm", "--json").ok()
    assert alive(processes) == []
    assert_port_is_free(made.endpoint)


@pytest.fixture(scope="module")
def ask(engine: Engine) -> Iterator[Ask]:
    """Questions to the plugin's own parts, all to one process."""
    inside = Inside(engine)
    yield inside.ask
    inside.close()


@pytest.fixture(scope="session")
def many(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Many]:
    """Engines and references in processes forked from one."""
    made = Many(engine, tmp_path_factory.mktemp("many") / "log")
    yield made
    made.close()


@pytest.fixture
def here(home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    """Commands run in this process, in a home for one test."""
    for name in [name for name in os.environ if name.startswith("QLAUNCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("QLAUNCH_HOME", str(home.root))
    return Here(home, capsys)


@pytest.fixture
def home(new_home: Callable[[str], Home]) -> Iterator[Home]:
    """A home for one test."""
    made = new_home("one")
    yield made
    made.sweep()
