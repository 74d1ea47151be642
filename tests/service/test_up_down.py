"""What `up`, `down`, `status` and `ps` promise, with a real supervisor and the fake engine."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import to_builtins

from launcher.documents.service_state import ServiceState, State
from launcher.documents.smoke import SmokeReport
from launcher.errors import QlaunchError
from launcher.linux import processes
from launcher.linux.processes import ProcessId
from launcher.paths import dirs
from launcher.service import control, ports, store
from launcher.service.supervisor.records import ServiceRecords
from tests import children
from tests.patience import PATIENCE_S
from tests.service.home import Beside, Home, eventually
from tests.workers import ALL_PORTS


def test_up_returns_when_verified_and_down_leaves_nothing(home: Home) -> None:
    seen: list[ServiceState] = []
    state = home.up(home.plan("--warm-up", "0.3"), seen)
    assert state.state == "ready"
    assert state.timings.ready_s is not None
    assert state.timings.verified_s is not None
    assert 0.3 <= state.timings.ready_s <= state.timings.verified_s
    names = [phase.name for phase in state.phases]
    assert names == ["starting", "loading", "warming", "verifying", "ready"]
    assert seen[-1] == state
    result = control.down("svc")
    assert result.was_running
    assert not result.forced
    assert result.left == ()
    assert result.state is not None
    assert result.state.state == "stopped"
    assert result.state.engine is None


def test_status_has_the_keys_that_scripts_rely_on(home: Home) -> None:
    plan = home.plan()
    home.up(plan)
    data = json.loads(msgspec.json.encode(control.status_of(control.status("svc"))))
    assert {"service", "profile", "state", "endpoint", "pid", "supervisor_pid", "run"} <= set(data)
    assert data["endpoint"] == f"http://127.0.0.1:{plan.port}/v1"
    assert set(data["engine"]) == {"release", "version", "argv", "env"}
    assert str(plan.port) in data["engine"]["argv"]
    assert data["memory"]["predicted"]["ram_bytes"] == 1
    assert set(data["memory"]["measured"]) == {"ram_peak_bytes", "gpu_peak_bytes", "method"}
    assert data["memory"]["measured"]["gpu_peak_bytes"] is None
    assert data["smoke"]["checks"][0]["ok"] is True
    control.down("svc")
    stopped = to_builtins(control.status_of(control.status("svc")))
    assert stopped["pid"] is None
    assert stopped["supervisor_pid"] is None


def test_measured_memory_reaches_the_state_with_its_method(home: Home) -> None:
    home.up(home.plan("--leak", "40"))

    def measured() -> bool:
        peak = control.status("svc").measured
        return (peak.ram_peak_bytes or 0) > 40_000_000 and peak.method["ram"] == "pss"

    assert eventually(measured)


def test_a_port_of_zero_takes_a_free_one(home: Home) -> None:
    state = home.up(home.plan(port=0))
    assert state.endpoint is not None
    port = int(state.endpoint.rsplit(":", 1)[1].removesuffix("/v1"))
    assert ALL_PORTS[0] <= port <= ALL_PORTS[1]
    assert state.engine is not None
    assert ports.ownership([state.engine.pid], "127.0.0.1", port) == "ours"


def test_down_of_what_never_ran_or_is_stopped_says_so(home: Home) -> None:
    never = control.down("svc")
    assert not never.was_running
    assert never.state is None
    home.up(home.plan())
    assert control.down("svc").was_running
    again = control.down("svc")
    assert not again.was_running
    assert again.state is not None
    assert again.state.state == "stopped"


def test_a_service_can_be_started_again_after_down_and_after_failure(home: Home) -> None:
    with pytest.raises(QlaunchError):
        home.up(home.plan("--exit-code", "1"))
    first = home.up(home.plan())
    control.down("svc")
    second = home.up(home.plan())
    assert second.run != first.run
    assert second.failure is None


def test_a_failed_up_returns_when_its_supervisor_is_gone(home: Home) -> None:
    """It used to return when the last state was written, a moment before."""
    for _ in range(5):
        with pytest.raises(QlaunchError) as caught:
            home.up(home.plan("--exit-code", "1"))
        assert caught.value.code == "start_failed"
        assert home.processes() == []


def test_status_of_an_unknown_service_exits_3(home: Home) -> None:
    with pytest.raises(QlaunchError) as caught:
        control.status("nothing")
    assert (caught.value.code, caught.value.exit_code) == ("no_such_service", 3)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "A", "x" * 65, "a\0b", ".hidden", "-x", "a\n"])
def test_names_that_could_leave_the_folder_are_refused(home: Home, name: str) -> None:
    for call in (control.status, control.down):
        with pytest.raises(QlaunchError) as caught:
            call(name)
        assert (caught.value.code, caught.value.exit_code) == ("bad_service_name", 2)


def test_a_second_up_of_a_running_service_exits_9_naming_the_endpoint(home: Home) -> None:
    plan = home.plan()
    home.up(plan)
    with pytest.raises(QlaunchError) as caught:
        home.up(plan)
    assert (caught.value.code, caught.value.exit_code) == ("already_running", 9)
    assert str(plan.port) in caught.value.message
    assert control.status("svc").state == "ready"


def test_a_second_up_of_that_name_with_another_model_does_not_offer_the_first(home: Home) -> None:
    """`up ./a/mine`, then `up ./b/mine`: one name, and the advice was to use what runs."""
    home.up(home.plan())
    with pytest.raises(QlaunchError) as caught:
        home.up(home.plan(fingerprint="1", model_path="/models/b/fake"))
    assert caught.value.code == "already_running"
    assert caught.value.message.endswith(", and serves another model: /models/fake")
    assert caught.value.fix == "stop it with qlaunch down svc, or give another name with --name"


def test_of_two_ups_at_once_one_wins_and_the_other_exits_9(home: Home) -> None:
    plan = home.plan("--slow-start", "0.5")
    both = [home.up_beside(plan).join for _ in range(2)]
    ended = [join() for join in both]
    winners = [one for one in ended if one.error is None]
    losers = [one.error for one in ended if one.error is not None]
    assert len(winners) == 1
    assert len(losers) == 1
    assert isinstance(losers[0], QlaunchError)
    assert losers[0].exit_code == 9
    assert losers[0].code in {"already_running", "busy"}


def test_two_services_on_one_port_one_wins_at_the_start(home: Home) -> None:
    one = home.plan("--slow-start", "0.6", name="one")
    two = home.plan("--slow-start", "0.6", name="two", port=one.port)
    ended = [call.join() for call in [home.up_beside(one), home.up_beside(two)]]
    errors = [each.error for each in ended if each.error is not None]
    assert len(errors) == 1
    assert isinstance(errors[0], QlaunchError)
    assert (errors[0].code, errors[0].exit_code) == ("port_taken", 9)


def test_down_during_up_wins_and_up_exits_9(home: Home) -> None:
    call = home.up_beside(home.plan("--never-listen"))
    home.wait_for("loading")
    assert control.down("svc").was_running
    error = call.join().error
    assert isinstance(error, QlaunchError)
    assert (error.code, error.exit_code) == ("stopped_meanwhile", 9)
    assert "by another command or a signal" in str(error)
    assert "qlaunch restart svc" in str(error.fix)


@pytest.mark.parametrize("now", ["stopped", "starting", "ready"])
def test_a_start_that_another_command_ended_or_replaced_names_that_command(
    now: State, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two restarts at once one ended with 9, without advice, or took the other's for its own."""
    monkeypatch.setattr(control, "LAST_STEPS_S", 0.0)
    where = store.folder("svc", create=True)
    with children.running(["sleep", "infinity"]) as other, control.sole(where) as lock:
        command = processes.process_id(other.pid)
        assert command is not None
        lock.sign(command)
        began = msgspec.structs.replace(
            store.unreadable("svc", ""), state="starting", run="one", supervisor=command
        )
        store.write_state(
            where,
            msgspec.structs.replace(
                began, state=now, run="one" if now == "stopped" else "two", supervisor=None
            ),
        )
        with pytest.raises(QlaunchError) as refused:
            control.followed(where, began, lambda _: None)
        shutil.rmtree(where.path)
    assert (refused.value.code, refused.value.exit_code) == ("stopped_meanwhile", 9)
    assert f"by process {other.pid} (sleep), " in str(refused.value)
    assert ("started again" in str(refused.value)) == (now != "stopped")
    assert refused.value.fix == "see what became of it: qlaunch status svc"


def test_up_during_down_exits_9(home: Home) -> None:
    home.up(home.plan("--drain", "2.5"))
    call = Beside(lambda: control.down("svc"))
    home.wait_for("stopping")
    with pytest.raises(QlaunchError) as caught:
        home.up(home.plan())
    assert caught.value.exit_code == 9
    assert call.join().error is None


def test_the_supervisor_holds_nothing_of_its_starter(home: Home, tmp_path: Path) -> None:
    """An inherited descriptor would keep a caller's pipe or lock open for the service's life."""
    read, write = os.pipe()
    os.set_inheritable(write, True)
    try:
        state = home.up(home.plan())
    finally:
        os.close(write)
    assert state.supervisor is not None
    assert os.read(read, 1) == b""  # the end of the pipe: nobody else holds it
    os.close(read)
    assert os.getsid(state.supervisor.pid) == state.supervisor.pid
    assert str(Path(f"/proc/{state.supervisor.pid}/fd/0").readlink()) == os.devnull
    assert str(Path(f"/proc/{state.supervisor.pid}/cwd").readlink()) != str(Path.cwd())


def test_the_engine_inherits_only_descriptors_0_1_2(home: Home) -> None:
    state = home.up(home.plan())
    assert state.engine is not None
    folder = Path(f"/proc/{state.engine.pid}/fd")
    targets = {int(fd.name): str(fd.readlink()) for fd in folder.iterdir()}
    inherited = {fd for fd, target in targets.items() if not target.startswith(("socket", "anon"))}
    assert inherited == {0, 1, 2}
    assert targets[0] == os.devnull
    assert os.getsid(state.engine.pid) == state.engine.pid


def test_the_engine_sees_only_allowed_variables(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-pass")
    monkeypatch.setenv("HF_TOKEN", "do-not-pass")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    state = home.up(home.plan())
    assert state.engine is not None
    env = Path(f"/proc/{state.engine.pid}/environ").read_bytes()
    assert b"do-not-pass" not in env
    assert b"OMP_NUM_THREADS=2" in env


def test_services_lists_all_and_is_quick(home: Home) -> None:
    home.up(home.plan(name="one"))
    with pytest.raises(QlaunchError):
        home.up(home.plan("--exit-code", "1", name="two"))
    (store.folder("three", create=True).state).write_text("{")
    found = {state.service: state.state for state in control.services()}
    assert found == {"one": "ready", "two": "failed", "three": "unknown"}
    script = (
        "import sys, time; began = time.process_time()\n"
        "from launcher.service import control as client\n"
        "client.services()\n"
        "print(time.process_time() - began)\n"
        "print(sorted({'requests', 'openai', 'rich', 'psutil', 'ctypes', 'subprocess'}"
        " & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    seconds, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    assert float(seconds) < 1.0  # 0.08 s on a quiet machine


def test_the_endpoint_really_serves(home: Home) -> None:
    plan = home.plan()
    home.up(plan)
    link = http.client.HTTPConnection("127.0.0.1", plan.port, timeout=PATIENCE_S)
    link.request("POST", "/v1/embeddings", json.dumps({"input": "hello"}))
    assert len(json.loads(link.getresponse().read())["data"][0]["embedding"]) == 8
    link.close()


def test_an_unusable_key_file_is_refused_before_anything_starts(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("secret")
    path.chmod(0o644)
    with pytest.raises(QlaunchError) as caught:
        home.up(home.plan(api_key_file=str(path)))
    assert (caught.value.code, caught.value.exit_code) == ("api_key_unusable", 2)
    assert "secret" not in caught.value.message
    assert home.state() is None


def test_the_key_is_nowhere_but_in_the_engine(home: Home, tmp_path: Path) -> None:
    canary = "canary-0123456789-zyx"
    path = tmp_path.parent / f"{tmp_path.name}-key"
    path.write_text(canary + "\n")
    path.chmod(0o600)
    state = home.up(home.plan("--print-key", "--die-after", "2.0", api_key_file=str(path)))
    secrets = store.folder("svc").secrets_config
    assert secrets.stat().st_mode & 0o777 == 0o600
    for process in home.processes():
        assert canary.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert canary not in json.dumps(to_builtins(control.status_of(state)))
    link = http.client.HTTPConnection("127.0.0.1", home.plan().port, timeout=PATIENCE_S)
    link.close()
    home.wait_for("backoff")
    control.down("svc")
    log = (tmp_path / "state" / "runs" / state.run / "engine.log").read_text()
    assert "[redacted]" in log
    for found in tmp_path.rglob("*"):
        if found.is_file():
            assert canary.encode() not in found.read_bytes(), found
    path.unlink()


def test_a_supervisor_that_cannot_start_is_reported(home: Home) -> None:
    def broken(plan: object) -> object:
        return control.launch(
            home.plan(), entry=(sys.executable, "-c", "import sys; sys.exit('no such module')")
        )

    with pytest.raises(QlaunchError) as caught:
        broken(None)
    assert caught.value.code == "supervisor_failed"
    assert "no such module" in caught.value.message


def test_a_hundred_signals_are_one_orderly_stop(home: Home) -> None:
    state = home.up(home.plan("--drain", "0.4"))
    assert state.supervisor is not None
    for _ in range(20):
        processes.send(state.supervisor, signal.SIGTERM)
        time.sleep(0.01)
    stopped = home.wait_for("stopped")
    names = [phase.name for phase in stopped.phases]
    assert names.count("stopping") == 1
    assert stopped.failure is None
    assert stopped.detail == "the engine stopped on SIGTERM"


def test_whoever_sees_ready_finds_the_run_recorded(home: Home) -> None:
    """The record used to be written a moment after the state that tells of it."""
    plan = home.plan()
    where = store.folder("svc", create=True)
    recorded: list[dict[str, Any]] = []

    def look(state: ServiceState) -> None:
        if state.state == "ready":
            recorded.append(json.loads((dirs().runs / state.run / "run.json").read_text()))

    with store.Lock(where.lock) as lock:
        assert lock.acquire()
        records = ServiceRecords(where, plan, lock=lock, began=time.monotonic(), on_change=look)
        records.enter("loading", "")
        records.enter("warming", "")
        records.enter("verifying", "")
        records.verified(SmokeReport(ok=True, checks=()))
        records.enter("stopping", "")
        records.finish("stopped", None)
        records.close()
    where.lock.unlink()  # signed by this process, which lives on: `down` would wait for its end
    (run,) = recorded
    assert run["smoke"]["ok"] is True
    assert [phase["name"] for phase in run["phases"]][-1] == "ready"


def test_a_supervisor_that_ends_between_two_questions_leaves_no_zombie(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was asked for first and reaped never, where it ended in between."""
    read, write = os.pipe()
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=read, close_fds=True)
    os.close(read)
    identity = processes.process_id(child.pid)
    real = processes.is_alive

    def ends_now(process: ProcessId | None) -> bool:
        with contextlib.suppress(OSError):
            os.close(write)
        eventually(lambda: not real(process))
        return real(process)

    monkeypatch.setattr(processes, "is_alive", ends_now)
    assert not control._lives(identity)
    with pytest.raises(ChildProcessError):
        os.waitpid(child.pid, os.WNOHANG)
    child.returncode = 1  # it was reaped for it
