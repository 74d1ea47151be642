from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher.service import ports
from tests.reliability import plugin

ENGINE = Path(__file__).with_name("engine_real")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the controller hears of every worker's tests
        config.pluginmanager.register(plugin.Outcomes(config), "reliability-outcomes")
    _ports_of_its_own()


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    plugin.mark(items)
    for item in items:
        if ENGINE in item.path.parents:
            item.add_marker(pytest.mark.engine)
        if item.get_closest_marker("engine"):
            item.add_marker(pytest.mark.xdist_group(plugin.ENGINE_GROUP))


def _ports_of_its_own() -> None:
    """A port picked by one worker, and not listened on yet, must not be picked by another."""
    name, count = os.environ.get("PYTEST_XDIST_WORKER"), os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if name is None or count is None:
        return
    first, last = ports.PICK
    share = (last - first + 1) // int(count)
    number = int(name.removeprefix("gw"))
    ports.PICK = (first + number * share, first + (number + 1) * share - 1)
