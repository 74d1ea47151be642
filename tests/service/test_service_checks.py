"""What doctor says of services, their leftovers and the port: it looks, and changes nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable

import msgspec
import pytest

from launcher.doctor import services
from launcher.doctor.runner import Finding
from launcher.doctor.services import port_finding, service_findings
from launcher.linux import processes
from launcher.paths import dirs
from launcher.service import control, ports, store
from launcher.service.recover import MARKER
from tests.service.home import Home, eventually


def by_name(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_a_home_without_services(home: Home) -> None:
    found = by_name(service_findings())
    assert {name: f.status for name, f in found.items()} == {"services": "ok", "leftovers": "ok"}
    assert not (home.root / "state").exists()


def test_a_running_service_and_its_port(home: Home) -> None:
    state = home.up(home.plan())
    found = by_name(service_findings())
    assert found["services"].message == "svc running"
    assert found["leftovers"].status == "ok"
    port = int(str(state.endpoint).rsplit(":", 1)[1].split("/")[0])
    finding = port_finding(port)
    assert (finding.status, finding.message) == ("ok", "service svc listens on it")


def test_a_supervisor_that_died_is_seen_and_not_settled(home: Home) -> None:
    state = home.up(home.plan())
    assert state.supervisor is not None
    processes.send(state.supervisor, signal.SIGKILL)
    eventually(lambda: not processes.is_alive(state.supervisor))
    found = by_name(service_findings())["service svc"]
    assert found.status == "warning"
    assert "its supervisor died while it was ready" in found.message
    assert "qlaunch down svc" in (found.fix or "")
    after = store.read_state("svc")
    assert after is not None
    assert after.state == "ready"


def test_a_damaged_state_is_a_problem(home: Home) -> None:
    where = store.folder("svc", create=True)
    where.state.write_text("{")
    found = by_name(service_findings())["service svc"]
    assert found.status == "problem"
    assert "damaged" in found.message


def test_processes_left_of_a_run_of_ours_are_named(home: Home) -> None:
    run = "run-of-ours"
    (dirs().runs / run).mkdir(parents=True)
    sleeping = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    left = subprocess.Popen(sleeping, env={**os.environ, MARKER: run})
    strange = subprocess.Popen(sleeping, env={**os.environ, MARKER: "of-another-home"})
    try:
        found = eventually(
            lambda: (f := by_name(service_findings())["leftovers"]).status == "problem" and f
        )
        assert f"{left.pid} (" in found.message
        assert str(strange.pid) not in found.message
        assert found.fix == f"kill {left.pid}"
    finally:
        for child in (left, strange):
            child.kill()
            child.wait()
    assert by_name(service_findings())["leftovers"].status == "ok"


def test_processes_that_a_service_wrote_down_are_named_with_the_command_that_ends_them(
    home: Home,
) -> None:
    state = home.up(home.plan())
    control.down("svc")
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    try:
        identity = processes.process_id(child.pid)
        assert identity is not None
        store.write_tree(store.folder("svc"), [identity])
        found = by_name(service_findings())["leftovers"]
        assert (found.status, found.fix) == ("problem", "qlaunch down svc")
        gone = msgspec.structs.replace(identity, start_ticks=identity.start_ticks - 1)
        store.write_tree(store.folder("svc"), [gone])
        assert by_name(service_findings())["leftovers"].status == "ok"
        store.folder("svc").tree.unlink()
    finally:
        child.kill()
        child.wait()
    assert state.state == "ready"


def test_a_port_that_someone_holds(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = port_finding(port)
        assert found.status == "warning"
        assert f"it is taken by process {os.getpid()}" in found.message
        assert "--port" in (found.fix or "")
    time.sleep(0.01)
    assert port_finding(ports.pick_free("127.0.0.1")).status == "ok"


def test_what_the_kernel_lacks_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [found.status for found in services.kernel_findings()] == ["ok"]
    monkeypatch.setattr(processes, "has_pidfds", lambda: False)
    (found,) = services.kernel_findings()
    assert found.status == "warning"
    assert "no pidfd_open" in found.message
    monkeypatch.setattr(processes, "proc_problem", lambda: "/proc shows others")
    (found,) = services.kernel_findings()
    assert (found.status, found.message) == ("problem", "/proc shows others")


def test_a_service_that_stands_still_is_a_warning_and_its_engine_no_leftover(home: Home) -> None:
    state = home.up(home.plan("--workers"))
    assert state.supervisor is not None
    supervisor = state.supervisor
    assert processes.send(supervisor, signal.SIGSTOP)
    eventually(lambda: processes.is_stopped(supervisor))
    try:
        found = {finding.name: finding for finding in services.service_findings()}
        assert found["service svc"].status == "warning"
        assert "stopped (SIGSTOP)" in found["service svc"].message
        assert found["leftovers"].status == "ok"
    finally:
        assert processes.send(supervisor, signal.SIGCONT)
