"""Forgetting services that ran for real."""

from __future__ import annotations

import os
import signal

import pytest

from launcher.errors import QlaunchError
from launcher.service import control, store
from launcher.service.forget import forget
from tests.service.home import Home, eventually


def test_one_that_runs_is_refused_and_goes_after_its_end(home: Home) -> None:
    home.up(home.plan())
    with pytest.raises(QlaunchError, match="is running") as caught:
        forget("svc")
    assert (caught.value.code, caught.value.exit_code) == ("in_use", 9)
    assert control.status("svc").state == "ready"
    control.down("svc")
    assert forget("svc") > 0
    assert store.list_services() == []


def test_one_whose_supervisor_was_killed_leaves_no_process(home: Home) -> None:
    state = home.up(home.plan())
    assert state.supervisor is not None
    os.kill(state.supervisor.pid, signal.SIGKILL)
    eventually(lambda: control.status("svc").state == "failed")
    forget("svc")
    home.assert_nothing_left()


def test_one_with_a_damaged_state_that_runs_is_refused(home: Home) -> None:
    home.up(home.plan())
    whole = store.folder("svc").state.read_bytes()
    store.folder("svc").state.write_text("{")
    with pytest.raises(QlaunchError) as caught:
        forget("svc")
    assert caught.value.exit_code == 9
    store.folder("svc").state.write_bytes(whole)


def test_one_that_is_being_started_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.service.forget._WAIT_S", 0.1)
    with control.sole(store.folder("svc", create=True)), pytest.raises(QlaunchError) as caught:
        forget("svc")
    assert (caught.value.code, caught.value.exit_code) == ("busy", 9)
