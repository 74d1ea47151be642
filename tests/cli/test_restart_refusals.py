"""What a start reads is looked at before anything is fetched for it, or stopped."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from argparse import Namespace
from pathlib import Path

import pytest

from launcher.app import exporting
from launcher.app import prepare as preparing
from launcher.engine.environments import environment_probe
from launcher.engine.environments.environment_probe import Versions
from launcher.linux import processes
from launcher.service import control, handover, store
from tests import children
from tests.cli.commandline import Run
from tests.cli.services import leave_service
from tests.cli.test_export import service


@pytest.fixture
def running(ready: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Service `svc` with a key, at work; returns the names that were stopped."""
    stopped: list[str] = []
    service(name="svc", api_key_file=str(key))
    found = leave_service("svc", "run", "ready")
    monkeypatch.setattr(control, "status", lambda _name: found)
    monkeypatch.setattr(control, "down", stopped.append)
    return stopped


@pytest.mark.parametrize("reread", [(), ("--reread",)])
@pytest.mark.parametrize("damage", ["gone", "readable by others", "two lines"])
def test_a_service_whose_key_cannot_be_read_is_not_stopped_for_a_restart(
    damage: str, reread: tuple[str, ...], run: Run, key: Path, running: list[str]
) -> None:
    """It was stopped, and then refused: a wrong step of a key's rotation was an outage."""
    if damage == "gone":
        key.unlink()
    elif damage == "two lines":
        key.write_text("old\nnew\n")
    else:
        key.chmod(0o644)
    answer = run("restart", "svc", *reread, "--json")
    assert (answer.code, answer.error["code"]) == (2, "api_key_unusable")
    assert running == []


def test_a_service_is_not_stopped_for_an_engine_that_is_not_whole(
    run: Run, ready: Path, running: list[str]
) -> None:
    shutil.rmtree(ready / "data" / "engines" / "cpu" / "lib")
    answer = run("restart", "svc", "--json")
    assert (answer.code, answer.error["code"]) == (5, "engine_broken")
    assert running == []


def test_a_service_is_not_stopped_for_a_port_that_another_has(
    run: Run, ready: Path, running: list[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        own = ready / "config" / "profiles" / "mine.yaml"
        own.write_text("extends: cpu-minilm\n")
        service(name="svc", profile="mine")
        own.write_text(f"extends: cpu-minilm\nport: {port}\n")
        answer = run("restart", "svc", "--reread", "--json")
    assert (answer.code, answer.error["code"]) == (9, "port_taken")
    assert running == []


def test_a_service_is_not_stopped_for_a_cache_that_cannot_be_opened(
    run: Run, ready: Path, running: list[str]
) -> None:
    own = ready / "config" / "profiles" / "mine.yaml"
    own.write_text("extends: cpu-minilm\n")
    service(name="svc", profile="mine")
    secret = own.with_name("cache.key")
    secret.write_bytes(bytes(32))
    secret.chmod(0o644)
    own.write_text("extends: cpu-minilm\ncache: {key_file: ./cache.key}\n")
    answer = run("restart", "svc", "--reread", "--json")
    assert (answer.code, answer.error["code"]) == (1, "cache_key")
    assert running == []


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_service_is_not_stopped_where_its_lock_is_no_file(
    kind: str, run: Run, running: list[str]
) -> None:
    """It was down for half a minute, and then for good."""
    lock = store.folder("svc").lock
    lock.unlink(missing_ok=True)
    if kind == "folder":
        lock.mkdir()
    else:
        lock.symlink_to("nowhere")
    answer = run("restart", "svc", "--json")
    assert (answer.code, answer.error["code"]) == (1, "state_dir_unsafe")
    assert answer.error["message"] == f"cannot lock {lock}: it is a {kind}, not a file"
    assert str(answer.error["fix"]).startswith(f"move it away: mv {lock} ")
    assert running == []


def test_a_service_is_not_stopped_where_there_is_no_room_for_a_plan(
    run: Run, running: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: it was stopped, and could not be started."""

    def full(path: Path, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(store, "write_atomic", full)
    answer = run("restart", "svc", "--json")
    assert (answer.code, answer.error["code"]) == (1, "state_not_written")
    assert "No space left on device" in answer.error["message"]
    assert running == []


@pytest.mark.parametrize("command", [("plan",), ("up", "--dry-run"), ("up",)])
def test_a_host_that_does_not_resolve_is_told_before_anything_is_fetched(
    command: tuple[str, ...], run: Run, ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`plan` ended with 0, and `up` fetched an engine and a model first."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(preparing, "_model", unknown)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    wide = ("--host", "nosuch.host", "--allow-unauthenticated")
    answer = run(*command, "cpu-minilm", *wide, "--json")
    assert (answer.code, answer.error["code"]) == (2, "bad_host")
    assert "nosuch.host" in answer.error["message"]


@pytest.mark.parametrize("command", [("plan",), ("up", "--dry-run"), ("up",)])
@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("api_key_file: ./nobody", "api_key_unusable"),
        ("cache: {backend: redis, password_file: ./nobody}", "bad_cache"),
    ],
)
def test_a_file_that_is_missing_is_told_by_plan_and_before_anything_is_fetched(
    line: str,
    code: str,
    command: tuple[str, ...],
    run: Run,
    ready: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`plan` ended with 0, and `up` fetched an engine and a model first."""

    def fetched(*_: object) -> None:
        raise AssertionError("the model was asked for")

    monkeypatch.setattr(preparing, "_model", fetched)
    own = ready / "config" / "profiles" / "mine.yaml"
    own.write_text(f"extends: cpu-minilm\n{line}\n")
    answer = run(*command, "mine", "--json")
    assert (answer.code, answer.error["code"]) == (2, code)
    assert "nobody" in answer.error["message"]


def test_a_plan_for_another_machine_and_a_bundle_ask_for_no_file_of_this_one(
    run: Run, ready: Path
) -> None:
    own = ready / "config" / "profiles" / "mine.yaml"
    own.write_text("extends: gpu-minilm\napi_key_file: ./nobody\n")
    assert run("plan", "mine", "--gpu", "L4", "--json").code == 0
    turing = run("plan", "mine", "--gpu", "T4", "--json")  # its release has no --config
    assert (turing.code, turing.error["code"]) == (5, "flag_unknown")
    assert "reads no API key from a file" in turing.error["message"]
    assert "qlaunch gateway SERVICE --api-key-file FILE" in turing.error["fix"]
    own.write_text("extends: cpu-minilm\napi_key_file: ./nobody\n")
    answer = run("bundle", "make", str(ready / "x.tar"), "--profile", "mine", "--dry-run", "--json")
    assert answer.code == 0, answer.out


@pytest.mark.parametrize("under", [True, False])
def test_a_service_that_systemd_runs_is_not_taken_from_it(
    under: bool, run: Run, ready: Path, running: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its unit had ended well, `on-failure`, and the service ran on in the shell's own session."""
    socket_of = {"NOTIFY_SOCKET": "/run/systemd/notify"} if under else {}

    def down(name: str) -> Namespace:
        running.append(name)
        return Namespace(was_running=True)

    monkeypatch.setattr(control, "down", down)
    monkeypatch.setattr(control, "launch", lambda *_, **__: control.status("svc"))
    with children.running(["sleep", "600"], env=socket_of) as supervisor:
        process = processes.process_id(supervisor.pid)
        found = leave_service("svc", "run", "ready", supervisor=process)
        monkeypatch.setattr(control, "status", lambda _name: found)
        monkeypatch.setattr(handover, "stand_by", lambda _name: None)
        answer = run("restart", "svc", "--json")
    if under:
        assert (answer.code, answer.error["code"]) == (9, "run_by_systemd")
        assert answer.error["fix"].startswith("systemctl ")
    assert running == ([] if under else ["svc"])


def test_the_first_process_of_a_container_is_not_ended(
    run: Run, running: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container ended with it, in the middle of the restart."""
    found = leave_service("svc", "run", "ready", supervisor=processes.process_id(1))
    monkeypatch.setattr(control, "status", lambda _name: found)
    answer = run("restart", "svc", "--json")
    assert (answer.code, answer.error["code"]) == (9, "run_by_container")
    assert answer.error["fix"].startswith("restart the container")
    assert running == []


@pytest.mark.parametrize("foreground", [True, False])
def test_a_service_that_leaves_the_foreground_says_so(
    foreground: bool, run: Run, ready: Path, running: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that waited for it ended with 0, and a detached service was left."""
    me = processes.process_id(os.getpid())
    before = leave_service("svc", "run", "ready", foreground=foreground, supervisor=me)
    now = leave_service("svc", "next", "ready")
    monkeypatch.setattr(control, "status", lambda _name: before)
    monkeypatch.setattr(control, "down", lambda _name: Namespace(was_running=True))
    monkeypatch.setattr(control, "launch", lambda *_, **__: now)
    monkeypatch.setattr(handover, "stand_by", lambda _name: None)
    assert run("restart", "svc", "--json").data["detached"] is foreground
    assert (
        "now runs in the background: qlaunch down svc" in run("restart", "svc").out
    ) is foreground


@pytest.mark.parametrize("what", ["gone", "another version"])
def test_a_service_is_not_stopped_for_an_engine_that_is_no_longer_its_own(
    what: str, run: Run, running: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`rm -rf` of its environment, or an upgrade of its Python, made a restart an outage."""
    other = Versions(sglang="0.0.1", torch="2", kernels=None)
    asked = environment_probe.versions if what == "gone" else lambda _python: other
    monkeypatch.setattr(exporting, "versions", asked)
    answer = run("restart", "svc", "--json")
    code = "engine_missing" if what == "gone" else "engine_changed"
    assert (answer.code, answer.error["code"]) == (5, code)
    assert answer.error["fix"].endswith("qlaunch restart svc --reread")
    assert running == []
