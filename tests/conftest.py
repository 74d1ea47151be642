from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.reliability import plugin
from tests.workers import Scheduling, take_ports_of_its_own

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler.protocol import Scheduling as Scheduler


# Other work on the machine is no fault of what is tested: no limit of 200 ms an example, and none
# on the time that making examples takes.
settings.register_profile("qlaunch", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("qlaunch")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the controller hears of every worker's tests
        config.pluginmanager.register(plugin.Outcomes(config), "reliability-outcomes")
    take_ports_of_its_own()
    # Started in the background of a script we inherit an ignored SIGINT, under nohup an ignored
    # SIGHUP, and every program that a test starts and signals would inherit it from us.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """SIGINT is heard in each test as in the one before it: a test that left it ignored or blocked
    made those that interrupt themselves wait in vain, in the same worker."""
    handler, mask = signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    if signal.getsignal(signal.SIGINT) is not handler:
        signal.signal(signal.SIGINT, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    plugin.mark(items)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduler:
    return Scheduling(config, log)
