"""An engine that nobody needs is stopped behind its gateway, and started by whoever needs it."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
import urllib.parse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from launcher.app.running_service import running
from launcher.config.service_cache import ServiceCache
from launcher.documents.service_state import ServiceState
from launcher.linux import processes
from launcher.service import control, ports
from launcher.service.supervisor.cache_gateway import CacheGateway
from launcher.service.supervisor.idle_stop import IdleStop, calls_open
from tests.cli.commandline import Run
from tests.cli.conftest import run
from tests.patience import PATIENCE_S
from tests.service import test_succession, test_template
from tests.service.home import Home, eventually
from tests.service.test_cache_gateway import (
    UNHURRIED,
    ask,
    ask_and_keep,
    call,
    gateway,
    is_kept,
    kill,
    page,
    plan,
)

__all__ = ["run"]

IDLE = msgspec.structs.replace(UNHURRIED, idle_stop_s=0.5)
LATER_S = 2.0
"""Time enough to do something first, beside other work."""
LATER = msgspec.structs.replace(UNHURRIED, idle_stop_s=LATER_S)
NEVER_S = 3600.0


def up(home: Home, *switches: str, cache: ServiceCache = IDLE, **changes: Any) -> ServiceState:
    home.options["timing"]["gateway_beat_s"] = 0.1
    return home.up(plan(home, *switches, cache=cache, **changes))


def idle(home: Home) -> ServiceState:
    """The state once the engine is stopped."""
    home.wait_for("idle")
    eventually(lambda: control.status("svc").detail.startswith("the engine is stopped"))
    return control.status("svc")


def ready_again(before: ServiceState) -> ServiceState:
    def back() -> ServiceState | None:
        now = control.status("svc")
        return now if now.state == "ready" and now.engine != before.engine else None

    state: ServiceState = eventually(back)
    return state


def probe(state: ServiceState, path: str) -> int:
    parts = urllib.parse.urlsplit(state.endpoint or "")
    client = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=PATIENCE_S)
    try:
        client.request("GET", path)
        answer = client.getresponse()
        answer.read()
        return answer.status
    finally:
        client.close()


def test_hits_need_no_engine_and_a_miss_starts_it(home: Home) -> None:
    before = up(home)
    _, (kept,) = ask(before, "kept")
    now = idle(home)
    assert now.engine is None
    assert now.engine_endpoint is None
    assert "the next request" in now.detail
    assert not processes.is_alive(before.engine)
    assert gateway(now) == gateway(before)
    answered, (again,) = ask(now, "kept")
    assert answered["X-Cache-Hits"] == "1"
    assert again == kept
    assert [probe(now, path) for path in ("/health", "/ready")] == [200, 200]
    assert control.status("svc").state == "idle", "a hit starts nothing"

    answered, (fresh,) = ask(now, "fresh")
    assert answered["X-Cache-Misses"] == "1"
    after = ready_again(before)
    assert after.restarts == 0
    assert gateway(after) == gateway(before)
    assert after.engine_endpoint is not None
    _, _, body = call(after.engine_endpoint, {"model": "fake", "input": ["fresh"]})
    assert fresh == pytest.approx(body["data"][0]["embedding"], abs=1e-6)


def test_it_is_stopped_and_started_again_and_again_and_counted_on(home: Home) -> None:
    state = up(home)
    for number in range(3):
        idle(home)
        ask(state, "kept", f"new {number}")
    idle(home)

    def counted() -> bool:
        now = control.status("svc").gateway
        return now is not None and (now.use.inputs, now.use.hits) == (6, 2)

    eventually(counted)
    phases = [phase.name for phase in control.status("svc").phases]
    assert phases.count("idle") == 4
    assert "failed" not in phases


def test_many_that_need_it_at_once_wait_for_one_start(home: Home) -> None:
    state = up(home)
    idle(home)
    answers: list[int] = []

    def one(number: int) -> None:
        body = {"model": "fake", "input": [f"text {number}"]}
        answers.append(call(state.endpoint, body)[0])

    clients = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for each in clients:
        each.start()
    for each in clients:
        each.join(PATIENCE_S)
    assert answers == [200] * 8
    phases = [phase.name for phase in control.status("svc").phases]
    assert phases.count("starting") == 2


def test_requests_at_the_moment_of_the_stop_are_answered(home: Home) -> None:
    """Whether a call is begun just before, at, or just after the stop: none of them fails."""
    state = up(home, cache=msgspec.structs.replace(UNHURRIED, idle_stop_s=0.15))
    until = time.monotonic() + 10
    number = 0
    while time.monotonic() < until:
        time.sleep(0.04 * (number % 15))
        status, _, body = call(state.endpoint, {"model": "fake", "input": [f"text {number}"]})
        assert status == 200, body
        number += 1
    assert "idle" in [phase.name for phase in control.status("svc").phases]


def test_a_request_under_way_keeps_the_engine(home: Home, tmp_path: Path) -> None:
    hang = tmp_path / "hang"
    home.options["timing"]["beat_s"] = NEVER_S
    state = up(home, "--hang-flag", str(hang), cache=LATER)
    hang.touch()
    answers: list[int] = []
    body = {"model": "fake", "input": ["slow"]}
    asking = threading.Thread(target=lambda: answers.append(call(state.endpoint, body)[0]))
    asking.start()
    eventually(lambda: calls_open(page(state)))
    time.sleep(1.5 * LATER_S)
    assert control.status("svc").state == "ready"
    hang.unlink()
    asking.join(PATIENCE_S)
    assert answers == [200]
    idle(home)


def test_a_connection_past_the_gateway_keeps_the_engine(home: Home) -> None:
    """Somebody measures it."""
    state = up(home, cache=LATER)
    parts = urllib.parse.urlsplit(state.engine_endpoint or "")
    assert parts.port
    client = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=PATIENCE_S)
    client.connect()
    try:
        assert ports.connected(parts.port)
        assert not ports.connected(parts.port, [os.getpid(), *ours(state)])
        time.sleep(1.5 * LATER_S)
        assert control.status("svc").state == "ready"
    finally:
        client.close()
    idle(home)


def ours(state: ServiceState) -> list[int]:
    assert state.supervisor is not None
    return [gateway(state).pid, state.supervisor.pid]


def test_down_while_idle_leaves_nothing(home: Home) -> None:
    up(home)
    state = idle(home)
    assert control.down("svc").left == ()
    assert control.status("svc").state == "stopped"
    assert not processes.is_alive(gateway(state))


def test_down_while_the_engine_is_being_stopped_leaves_nothing(home: Home) -> None:
    before = up(home, "--ignore-sigterm")
    state = home.wait_for("idle")  # said as soon as it begins; the engine takes its time
    assert processes.is_alive(before.engine)
    assert control.down("svc").left == ()
    assert control.status("svc").state == "stopped"
    assert not processes.is_alive(gateway(state))
    assert not processes.is_alive(before.engine)


def test_a_request_while_the_engine_is_being_stopped_waits_for_the_next_one(home: Home) -> None:
    before = up(home, "--drain", "1.5")
    home.wait_for("idle")
    assert processes.is_alive(before.engine)
    ask(before, "fresh")
    assert ready_again(before).restarts == 0


def test_a_gateway_killed_while_idle_starts_again(home: Home) -> None:
    before = up(home)
    kept = ("one that is kept", "another")
    ask_and_keep(before, *kept)
    state = idle(home)
    kill(gateway(state))

    def other() -> bool:
        now = control.status("svc").gateway
        return now is not None and now.process not in {None, gateway(state)}

    eventually(other)

    def starts_an_engine() -> bool:
        try:
            return ask(before, "fresh")[0]["X-Cache-Hits"] in {"0", "1"}
        except OSError:
            return False

    eventually(starts_an_engine)
    ready_again(before)
    assert is_kept(before, *kept)


def test_an_engine_that_does_not_come_back_is_an_error_and_a_failed_service(
    home: Home, tmp_path: Path
) -> None:
    refuse = tmp_path / "refuse"
    state = up(home, "--refuse-flag", str(refuse))
    idle(home)
    refuse.touch()
    try:
        status = call(state.endpoint, {"model": "fake", "input": ["fresh"]})[0]
    except (OSError, http.client.HTTPException):
        status = 503
    assert status == 503
    eventually(lambda: control.status("svc").state in {"failed", "backoff", "starting"})


def test_status_says_that_it_is_idle(home: Home, run: Run) -> None:
    up(home)
    idle(home)
    shown = run("status", "svc")
    assert shown.code == 0
    assert "idle" in shown.out
    data = json.loads(run("status", "svc", "--json").out)["data"]
    assert data["state"] == "idle"
    assert data["pid"] is None
    assert data["endpoint"] is not None


def test_whoever_needs_the_engine_itself_wakes_it(home: Home) -> None:
    """`verify`, `smoke` and `bench` ask it past the gateway."""
    before = up(home)
    idle(home)
    _plan, endpoint = running("svc", past_cache=True)
    now = control.status("svc")
    assert now.state == "ready"
    assert endpoint == now.engine_endpoint != before.endpoint


def test_without_the_setting_it_is_never_stopped(home: Home) -> None:
    up(home, cache=UNHURRIED)
    time.sleep(1.5)
    assert control.status("svc").state == "ready"


def test_it_is_stopped_again_after_a_restart(home: Home) -> None:
    home.options["timing"]["gateway_beat_s"] = 0.1
    over = test_template.plan(home)
    made = plan(home, cache=IDLE)
    home.up(msgspec.structs.replace(made, template=True, engine=over.engine))
    before = idle(home)
    now = test_succession.restart(home)
    assert (now.state, now.template) == ("ready", before.template)
    idle(home)


def test_the_time_without_a_request_counts_from_the_proof() -> None:
    """It counted from the first look after it: 8 s took two looks of 10 s each."""
    page = b'qlaunch_gateway_inputs_total{model="m"} 1.0\n'
    one = IdleStop(1e-9)
    one.proved(page)
    one.begin()
    assert one.is_due(page, 0, os.getpid())
    assert not IdleStop(NEVER_S).is_due(page, 0, os.getpid())


def test_a_connection_in_the_moment_of_the_stop_keeps_the_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Calls alone were looked at, which past the gateway nobody counts."""
    monkeypatch.setattr(ports, "connected", lambda *_: True)
    free: list[bool] = []
    told: Any = SimpleNamespace(
        _life=SimpleNamespace(process=SimpleNamespace(pid=os.getpid())),
        _request=SimpleNamespace(engine="http://127.0.0.1:30000/v1"),
        _resting="heard",
        _rest=lambda **said: free.append(said["free"]),
    )
    CacheGateway._look_idle(told, b"")
    assert free == [False]


def test_calls_that_wait_or_are_under_way_are_read() -> None:
    page = (
        b"# HELP qlaunch_gateway_waiting Calls.\n"
        b'qlaunch_gateway_waiting{model="m"} 2.0\n'
        b'qlaunch_gateway_open_calls{model="m",server="s"} 3.0\n'
        b'qlaunch_gateway_calls_total{model="m",server="s"} 99.0\n'
    )
    assert calls_open(page) == 5
    assert calls_open(b"") == 0


def test_a_port_that_nobody_is_connected_to() -> None:
    assert not ports.connected(ports.pick_free("127.0.0.1"))
