from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.service import control, note, store
from tests.service.home import Home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home of its own; whatever the test did, nothing may be left of it."""
    monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path))
    found = Home(tmp_path)
    yield found
    for name in store.list_services():
        if _told_of_ourselves(name):  # `down` would wait for this process to end
            shutil.rmtree(store.folder(name).path)
        else:
            control.down(name)
    found.assert_nothing_left()


def _told_of_ourselves(name: str) -> bool:
    """Whether a test wrote that its own process supervises a service."""
    told = (store.read_state(name), note.read(store.folder(name)))
    supervisors = [one.supervisor for one in told if one is not None]
    return os.getpid() in [one.pid for one in supervisors if one is not None]
