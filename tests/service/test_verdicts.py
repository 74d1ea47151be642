"""Engines that start but are not right: the verdict, its exit code, and nothing left."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from launcher.documents.smoke import Check, SmokeReport
from launcher.errors import QlaunchError
from launcher.linux import processes
from launcher.plan.resolve import make_plan
from launcher.service import control, failures, ports, store
from tests.patience import PATIENCE_S
from tests.plan.inputs import inputs
from tests.service.home import ENGINE, Home, eventually, status_of

SHORT_S = 5.0
"""A start that is to time out: long enough for a slow machine to have answered in it."""


def failure(home: Home, *switches: str, **changes: Any) -> QlaunchError:
    with pytest.raises(QlaunchError) as caught:
        home.up(home.plan(*switches, **changes))
    home.assert_nothing_left()
    return caught.value


def test_the_failure_carries_class_lines_and_status(home: Home, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("Traceback (most recent call last):\nRuntimeError: CUDA out of memory.\n")
    home.options["classes"] = {"CUDA out of memory": "oom_load"}
    error = failure(home, "--print", str(text), "--exit-code", "1")
    assert (error.code, error.exit_code) == ("start_failed", 6)
    assert error.fix == "fix it"
    assert status_of(error)["failure"]["failure_class"] == "oom_load"
    assert status_of(error)["failure"]["evidence"] == ["RuntimeError: CUDA out of memory."]


def test_a_start_that_takes_too_long_exits_8(home: Home) -> None:
    error = failure(home, "--never-listen", start_timeout_s=SHORT_S)
    assert (error.code, error.exit_code) == ("timed_out", 8)
    assert f"within {SHORT_S:g} s" in error.message
    assert "loading the model (Connection refused)" in error.message


def test_a_server_that_stays_503_exits_8_and_says_so(home: Home) -> None:
    error = failure(home, "--never-ready", start_timeout_s=SHORT_S)
    assert error.exit_code == 8
    assert "HTTP 503" in error.message


@pytest.mark.parametrize("status", ["204", "401"])
def test_only_200_is_healthy(home: Home, status: str) -> None:
    error = failure(home, "--health-status", status, start_timeout_s=SHORT_S)
    assert error.exit_code == 8
    assert f"HTTP {status}" in error.message


def test_a_health_answer_of_one_byte_a_second_times_out(home: Home) -> None:
    home.options["timing"]["health_timeout_s"] = 0.2
    error = failure(home, "--health-drips", start_timeout_s=SHORT_S)
    assert error.exit_code == 8
    assert "no answer within 0.2 s" in error.message


def test_an_older_engine_answers_get_model_info(home: Home) -> None:
    assert home.up(home.plan("--old-info")).state == "ready"


@pytest.mark.parametrize(
    ("switch", "words"),
    [("--wrong-model", "/models/another"), ("--generates", "as a generator")],
)
def test_an_engine_with_another_model_is_not_ready(home: Home, switch: str, words: str) -> None:
    error = failure(home, switch)
    assert (error.code, error.exit_code) == ("wrong_model", 7)
    assert words in error.message


def test_an_engine_without_the_guard_it_was_to_have_is_stopped(home: Home) -> None:
    error = failure(home, guard=make_plan(inputs()).guard)
    assert (error.code, error.exit_code) == ("start_failed", 6)
    assert "without qlaunch's guard" in error.message
    assert status_of(error)["failure"]["failure_class"] == "unguarded"
    assert status_of(error)["restarts"] == 0


def test_an_engine_with_its_guard_is_ready(home: Home) -> None:
    plan = home.plan(guard=make_plan(inputs()).guard)
    plan.engine.env["REQUEST_GUARD"] = "{}"
    assert home.up(plan).state == "ready"


def test_wrong_vectors_fail_the_smoke_with_exit_7(home: Home) -> None:
    error = failure(home, "--wrong-dim")
    assert (error.code, error.exit_code) == ("smoke_failed", 7)
    assert status_of(error)["state"] == "failed"
    assert status_of(error)["smoke"]["checks"][0]["ok"] is False
    assert status_of(error)["failure"]["evidence"] == ["dimensions: HTTP 200, [7, 7, 7]"]


def test_an_engine_whose_health_lies_is_wedged_not_ready(home: Home) -> None:
    home.options["timing"]["verify_s"] = 0.5
    error = failure(home, "--health-lies")
    assert (error.code, error.exit_code) == ("smoke_failed", 7)
    assert status_of(error)["failure"]["failure_class"] == "wedged"


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("crash", "exit code 5: something broke"),
        ("error", "cannot"),
        ("odd", "sent an answer that cannot be read"),
    ],
)
def test_a_smoke_process_that_breaks_is_a_failed_smoke(home: Home, mode: str, words: str) -> None:
    home.options["verify"].append(mode)
    error = failure(home)
    assert error.exit_code == 7
    assert words in error.message


def test_a_smoke_process_that_cannot_be_started_is_a_failure(home: Home) -> None:
    home.options["verify"] = ["/nonexistent/python"]
    assert failure(home).exit_code == 6


def test_a_missing_engine_program_is_named(home: Home) -> None:
    engine = msgspec.structs.replace(home.plan().engine, argv=("/no/sglang",))
    with pytest.raises(QlaunchError) as caught:
        home.up(home.plan(engine=engine))
    assert caught.value.exit_code == 6
    assert "/no/sglang" in caught.value.message
    assert status_of(caught.value)["failure"]["failure_class"] == "engine_missing"


def test_a_taken_port_is_named_with_its_holder_and_exits_9(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(QlaunchError) as caught:
            home.up(home.plan(port=port))
    assert (caught.value.code, caught.value.exit_code) == ("port_taken", 9)
    assert f"port {port}" in caught.value.message
    assert "process " in caught.value.message
    assert home.state() is None


def test_a_listener_whose_holder_is_not_seen_once_is_no_strangers(home: Home) -> None:
    """A killed process has no descriptors any more before the kernel closes its listener."""
    home.options["holder_unseen"] = 1
    assert home.up(home.plan()).state == "ready"
    control.down("svc")
    home.options["holder_unseen"] = 2
    with pytest.raises(QlaunchError) as caught:
        home.up(home.plan())
    assert caught.value.code == "port_taken"


def test_a_healthy_stranger_on_the_port_is_not_taken_for_ours(home: Home) -> None:
    """It answers 200 and names our model, but the kernel says that the socket is not ours."""
    plan = home.plan("--never-listen", "--slow-start", "5")
    call = home.up_beside(plan)
    home.wait_for("loading")
    arguments = ["--port", str(plan.port), "--dimensions", "8"]
    stranger = subprocess.Popen(
        [sys.executable, "-S", str(ENGINE), *arguments], stdout=subprocess.DEVNULL
    )
    try:
        error = call.join().error
        assert isinstance(error, QlaunchError)
        assert (error.code, error.exit_code) == ("port_taken", 9)
        assert f"process {stranger.pid}" in error.message
        assert control.status("svc").state == "failed"
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_health_that_fails_twice_degrades_and_recovers(home: Home, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    home.options["timing"]["beat_s"] = 0.1
    home.up(home.plan("--health-flag", str(flag)))
    flag.touch()
    degraded = home.wait_for("degraded")
    assert "HTTP 503" in degraded.detail
    assert degraded.engine is not None
    flag.unlink()
    assert home.wait_for("ready").engine == degraded.engine


def test_a_flood_of_log_is_bounded_on_disk_and_does_not_stop_the_engine(home: Home) -> None:
    state = home.up(home.plan("--flood", "25", "--flood-line", "20", "--garbage"))
    assert state.supervisor is not None
    status = Path(f"/proc/{state.supervisor.pid}/status").read_text()
    peak_kb = int(status.split("VmHWM:")[1].split()[0])
    assert peak_kb < 60_000
    run = home.root / "state" / "runs" / state.run
    sizes = [path.stat().st_size for path in run.glob("engine.log*")]
    assert len(sizes) == 2
    assert max(sizes) <= 20 * 1024 * 1024
    text = b"".join(path.read_bytes() for path in run.glob("engine.log*"))
    assert b"\x1b" not in text
    assert b"\x00" not in text
    assert b"line cut" in text


def test_the_real_smoke_accepts_the_fake_engine_and_refuses_a_broken_one(home: Home) -> None:
    home.options["verify"] = [sys.executable, "-P", "-m", "launcher.verify"]
    plan = home.plan()
    expected = msgspec.structs.replace(plan.expectation, dimensions=384)
    argv = tuple("384" if word == "8" else word for word in plan.engine.argv)
    engine = msgspec.structs.replace(plan.engine, argv=argv)
    state = home.up(msgspec.structs.replace(plan, expectation=expected, engine=engine))
    assert state.smoke is not None
    assert len(state.smoke.checks) >= 6
    control.down("svc")
    engine = msgspec.structs.replace(engine, argv=(*argv, "--not-normalized"))
    with pytest.raises(QlaunchError) as caught:
        home.up(msgspec.structs.replace(plan, expectation=expected, engine=engine))
    assert caught.value.exit_code == 7


def test_ipv6_and_wildcard_hosts_are_reached(home: Home) -> None:
    plan = home.plan(host="::1")
    argv = tuple("::1" if word == "127.0.0.1" else word for word in plan.engine.argv)
    engine = msgspec.structs.replace(plan.engine, argv=argv)
    state = home.up(msgspec.structs.replace(plan, engine=engine))
    assert state.endpoint is not None
    assert state.endpoint.startswith("http://[::1]:")
    control.down("svc")
    port = ports.pick_free("0.0.0.0")
    assert home.up(home.plan(host="0.0.0.0", port=port)).endpoint == f"http://127.0.0.1:{port}/v1"


def test_foreground_tells_systemd_ready_only_after_the_smoke(home: Home, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        name = f"qlaunch-test-{tmp_path.name}"
        listener.bind("\0" + name)
        listener.settimeout(10)
        starter = home.starter(home.plan(), "foreground", NOTIFY_SOCKET=f"@{name}")
        heard: list[str] = []
        while not heard or "READY=1" not in heard[-1]:
            heard.append(listener.recv(4096).decode())
        assert control.status("svc").state == "ready"
        assert any("STATUS=verifying" in text for text in heard[:-1])
        assert not any("READY" in text for text in heard[:-1])
        with pytest.raises(QlaunchError) as caught:
            home.up(home.plan())
        assert caught.value.code == "already_running"
        starter.terminate()
        out, _ = starter.communicate(timeout=PATIENCE_S)
        assert starter.returncode == 0, out
        while "STOPPING=1" not in heard[-1]:
            heard.append(listener.recv(4096).decode())
    assert control.status("svc").state == "stopped"


def test_a_supervisor_whose_folder_was_removed_stops_by_itself(home: Home) -> None:
    home.up(home.plan())
    path = store.folder("svc").path

    def removed() -> bool:  # it may be writing into it at this very moment
        shutil.rmtree(path, ignore_errors=True)
        return not path.exists()

    eventually(removed)
    eventually(lambda: not home.processes())


def test_a_supervisor_whose_folder_was_removed_leaves_that_of_the_next_one_alone(
    home: Home,
) -> None:
    """It wrote its own state there for as long as it ran, which `down` no longer ended."""
    first = home.up(home.plan())
    where = store.folder("svc")
    where.path.rename(home.root / "away")
    now = home.up(home.plan())
    eventually(lambda: not processes.is_alive(first.supervisor))
    found = store.read_state("svc")
    assert found is not None
    assert (found.run, found.state, found.supervisor) == (now.run, "ready", now.supervisor)
    assert now.engine in store.read_tree(where)
    assert control.down("svc").was_running
    home.assert_nothing_left()


def test_a_damaged_state_file_hides_no_running_service(home: Home) -> None:
    plan = home.plan()
    supervisor = home.up(plan).supervisor
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGSTOP)  # else it mends its file within the second
    store.folder("svc").state.write_text("{")
    assert control.status("svc").state == "unknown"
    with pytest.raises(QlaunchError) as caught:
        home.up(plan)
    assert (caught.value.code, caught.value.exit_code) == ("already_running", 9)
    os.kill(supervisor.pid, signal.SIGCONT)
    result = control.down("svc")
    assert result.was_running
    assert result.state is not None
    assert result.state.state == "stopped"


def test_a_smoke_that_blames_a_hang_has_its_class_and_says_what_to_do() -> None:
    """As for a KV cache that is too small for any text: health is fine, and no call is answered."""
    check = Check(name="count", ok=False, detail="no vectors came: no whole answer within 30 s")
    report = SmokeReport(ok=False, checks=(check,), suspect="wedged", explanation="It hangs.")
    failure = failures.smoke_verdict(report)
    assert (failure.code, failure.failure_class, failure.exit_code) == ("smoke_failed", "wedged", 7)
    assert failure.fix == "start it again; see the engine's log"
    assert failure.evidence == (f"count: {check.detail}",)
