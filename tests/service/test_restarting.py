"""What a restart is for whoever watches the service, and for its clients."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec
import pytest

from launcher.cli import restart
from launcher.cli.progress import Progress
from launcher.documents.plan import Plan
from launcher.documents.service_state import ServiceState
from launcher.linux.processes import ProcessId
from launcher.service import control, handover, restarting, store
from tests.service import test_template
from tests.service.home import Home


def port_of(state: ServiceState) -> int:
    return urlsplit(str(state.endpoint)).port or 0


def without_template(home: Home) -> ServiceState:
    return home.up(home.plan(port=0))


def with_template(home: Home) -> ServiceState:
    return test_template.up(home, port=0)


def again(home: Home, before: ServiceState, monkeypatch: pytest.MonkeyPatch) -> ServiceState:
    """What the command does, with the fake engine's supervisor."""
    for launch in (control.launch, handover.Standby.launch):
        given = {"on_change": lambda _: None, "entry": home.entry}
        monkeypatch.setattr(launch, "__kwdefaults__", given)
    plan = store.read_plan(store.folder("svc"))
    return restart._at_once(before, plan, Progress(quiet=True), reread=False)


Up = Callable[[Home], ServiceState]
STARTS = pytest.mark.parametrize("up", [without_template, with_template])


@STARTS
def test_between_its_two_lives_a_service_is_not_told_as_stopped(
    home: Home, up: Up, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Monitoring raised an alarm at every restart, and `engine remove` took its engine."""
    before = up(home)
    seen: list[object] = []
    plain = restart._next

    def between(plan: Plan, progress: Progress, reread: bool) -> Plan:
        told, written = control.status("svc"), store.read_state("svc")
        assert written is not None
        shown = [each.state for each in control.services()]
        seen.append((written.state, told.state, told.detail, shown))
        return plain(plan, progress, reread)

    monkeypatch.setattr(restart, "_next", between)
    now = again(home, before, monkeypatch)
    detail = f"between two lives: process {os.getpid()} (restart) starts it again"
    assert seen == [("stopped", "starting", detail, ["starting"])]
    assert (now.state, port_of(now)) == ("ready", port_of(before))
    assert now.run != before.run
    control.down("svc")
    assert control.status("svc").state == "stopped"
    home.assert_nothing_left()


def test_a_restart_takes_another_port_where_its_own_is_taken(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = without_template(home)
    plain = restart._next
    with socket.socket() as stranger:

        def taken(plan: Plan, progress: Progress, reread: bool) -> Plan:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            stranger.bind(("127.0.0.1", port_of(before)))
            stranger.listen()
            return plain(plan, progress, reread)

        monkeypatch.setattr(restart, "_next", taken)
        now = again(home, before, monkeypatch)
        assert now.state == "ready"
        assert port_of(now) not in {0, port_of(before)}
        control.down("svc")


def test_a_start_that_is_no_restart_takes_any_free_port(home: Home) -> None:
    before = without_template(home)
    control.down("svc")
    assert restarting.port_before(store.folder("svc")) == 0
    with restarting.announced(store.folder("svc"), before, home.plan()):
        assert restarting.port_before(store.folder("svc")) == 0  # it had one of its own


@pytest.mark.parametrize("note", ["", "{}", "[" * 5000, "gone", "another life", "a dead command"])
def test_a_note_that_counts_no_more_changes_nothing(home: Home, note: str) -> None:
    state, where = without_template(home), store.folder("svc")
    control.down("svc")
    file = where.path / "restarting.json"
    plan = store.read_plan(where)
    with restarting.announced(where, state, plan):
        assert control.status("svc").state == "starting"
        written = msgspec.json.decode(file.read_bytes())
        if note == "another life":
            file.write_bytes(msgspec.json.encode({**written, "run": "another"}))
        elif note == "a dead command":
            dead = ProcessId(pid=1 << 22, start_ticks=1, boot_id=written["command"]["boot_id"])
            file.write_bytes(msgspec.json.encode({**written, "command": dead}))
        elif note == "gone":
            file.unlink()
        else:
            file.write_text(note)
        assert control.status("svc").state == "stopped"
    assert not file.exists()
