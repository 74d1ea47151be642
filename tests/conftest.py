from __future__ import annotations

import pytest

from tests.reliability import plugin


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(plugin.Outcomes(config), "reliability-outcomes")


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    plugin.mark(items)
