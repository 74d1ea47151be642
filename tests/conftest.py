from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.reliability import plugin
from tests.workers import Scheduling, take_ports_of_its_own

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler.protocol import Scheduling as Scheduler


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the controller hears of every worker's tests
        config.pluginmanager.register(plugin.Outcomes(config), "reliability-outcomes")
    take_ports_of_its_own()


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    plugin.mark(items)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduler:
    return Scheduling(config, log)
