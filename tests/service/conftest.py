from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.service import control, store
from tests.service.home import Home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home of its own; whatever the test did, nothing may be left of it."""
    monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path))
    found = Home(tmp_path)
    yield found
    for name in store.list_services():
        control.down(name)
    found.assert_nothing_left()
