"""Lives that are forked from a template: the real one, over an engine that needs no import."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from launcher.config.profile import Restart
from launcher.documents.plan import EnginePlan, Plan
from launcher.documents.service_state import ServiceState
from launcher.engine import command
from launcher.errors import QlaunchError
from launcher.linux import processes, procfs
from launcher.linux.processes import ProcessId
from launcher.service import control, process_tree, store
from launcher.service.supervisor import template
from launcher.service.supervisor.event_loop import Loop
from tests.children import running
from tests.patience import PATIENCE_S
from tests.service.home import ENGINE, HERE, Home, eventually

pytestmark = pytest.mark.skipif(
    not process_tree.can_be_subreaper(), reason="this kernel lets no process adopt orphans"
)


def plan(home: Home, *switches: str, **changes: Any) -> Plan:
    """The fake engine under the real template module, beside stand-ins for what that imports."""
    made = home.plan(*switches, template=True, **changes)
    paths = f"{command.PLUGIN}:{HERE / 'stand_in'}"
    engine = EnginePlan(
        release="fake",
        version="0",
        python=sys.executable,
        argv=(str(ENGINE), *made.engine.argv[made.engine.argv.index(str(ENGINE)) + 1 :]),
        env={**made.engine.env, "PYTHONPATH": paths},
    )
    return Plan(
        **{name: getattr(made, name) for name in Plan.__struct_fields__} | {"engine": engine}
    )


def up(home: Home, *switches: str, **changes: Any) -> ServiceState:
    home.up(plan(home, *switches, **changes))
    state: ServiceState = eventually(lambda: (s := control.status("svc")).template and s)
    return state


def kill(process: ProcessId | None, number: int = signal.SIGKILL) -> None:
    assert process is not None
    assert processes.send(process, number)


def next_life(before: ServiceState) -> ServiceState:
    def verified() -> ServiceState | None:
        now = control.status("svc")
        return now if now.state == "ready" and now.restarts > before.restarts else None

    state: ServiceState = eventually(verified)
    assert not processes.is_alive(before.engine)
    return state


def journal() -> str:
    return store.folder("svc").log.read_text()


def test_a_killed_engine_is_forked_again(home: Home) -> None:
    before = up(home, "--workers")
    kill(before.engine)
    now = next_life(before)
    assert now.template == before.template, journal()
    assert f"the engine, process {now.engine.pid if now.engine else 0}, was forked" in journal()


def test_a_forked_engine_is_a_child_of_the_supervisor_and_leads_its_session(home: Home) -> None:
    before = up(home)
    kill(before.engine)
    now = next_life(before)
    assert now.engine is not None
    assert now.supervisor is not None
    assert now.template is not None
    stats = [processes.read_stat(process.pid) for process in (now.engine, now.template)]
    assert all(stat is not None and stat.parent == now.supervisor.pid for stat in stats)
    assert all(stat is not None and stat.session == stat.pid for stat in stats)


def test_the_log_of_a_forked_engine_is_captured(home: Home) -> None:
    before = up(home, "--print-key")
    kill(before.engine)
    next_life(before)
    log = (store.folder("svc").path / "engine.log").resolve()
    runs = list(home.root.rglob("engine.log*"))
    text = "".join(path.read_text() for path in (*runs, *([log] if log.exists() else [])))
    assert text.count("fired up") >= 2


def test_a_worker_that_dies_is_a_restart_by_fork(home: Home) -> None:
    before = up(home, "--workers")
    engine = before.engine
    assert engine is not None
    table = processes.all_processes()
    workers = procfs.descendants([engine.pid], table) - {engine.pid}
    kill(processes.identity_of(table[min(workers)]))
    assert next_life(before).template == before.template


def test_a_killed_template_is_told_and_a_start_imports_and_leaves_a_new_one(home: Home) -> None:
    before = up(home)
    kill(before.template)
    eventually(lambda: control.status("svc").template is None)
    assert control.status("svc").state == "ready"
    assert "has ended; the next start imports again" in journal()
    kill(before.engine)
    next_life(before)
    again = eventually(lambda: control.status("svc").template)
    assert again != before.template
    assert "was forked" not in journal()


def test_a_stopped_template_is_ended_and_replaced(home: Home) -> None:
    before = up(home)
    kill(before.template, signal.SIGSTOP)
    kill(before.engine)
    next_life(before)
    assert not processes.is_alive(before.template)
    assert eventually(lambda: control.status("svc").template) != before.template
    assert "is stopped (SIGSTOP)" in journal()


def test_down_ends_the_template(home: Home) -> None:
    state = up(home, "--workers")
    done = control.down("svc")
    assert done.left == ()
    assert not processes.is_alive(state.template)
    home.assert_nothing_left()


def test_down_ends_a_stopped_template(home: Home) -> None:
    state = up(home)
    kill(state.template, signal.SIGSTOP)
    assert control.down("svc").left == ()
    assert not processes.is_alive(state.template)


def test_the_template_and_forked_lives_die_with_the_supervisor(home: Home) -> None:
    before = up(home, "--workers")
    kill(before.engine)
    now = next_life(before)
    kill(now.supervisor)
    eventually(lambda: not processes.is_alive(now.template))
    eventually(lambda: not processes.is_alive(now.engine))
    control.status("svc")
    home.assert_nothing_left()


def test_a_crash_loop_still_ends(home: Home) -> None:
    limits = Restart(max_attempts=2, backoff_initial_s=0.05, backoff_max_s=0.1)
    up(home, "--die-after", "1.5", restart=limits)
    state = home.wait_for("failed")
    assert state.failure is not None
    assert state.restarts == 2
    assert state.template is None
    home.assert_nothing_left()


def test_a_life_that_came_not_up_is_followed_by_an_import(home: Home, tmp_path: Path) -> None:
    """The template may be what is wrong with it."""
    flag = tmp_path / "refuses"
    before = up(home, "--refuse-flag", str(flag))
    flag.touch()
    kill(before.engine)
    eventually(lambda: control.status("svc").restarts >= 2)
    flag.unlink()
    next_life(before)
    assert eventually(lambda: control.status("svc").template) != before.template


def test_without_a_template_nothing_is_kept(home: Home) -> None:
    state = home.up(home.plan("--workers"))
    assert state.template is None
    assert "template" not in journal()


def test_an_environment_that_cannot_be_imported_starts_as_ever(home: Home) -> None:
    """Whatever the template's imports meet, the engine's own start decides."""
    made = plan(home)
    env = {**made.engine.env, "PYTHONPATH": str(command.PLUGIN)}  # no sglang at all
    engine = EnginePlan(
        release="fake", version="0", python=sys.executable, argv=made.engine.argv, env=env
    )
    state = home.up(msgspec.structs.replace(made, engine=engine))
    assert state.state == "ready"
    assert control.status("svc").template is None


def test_an_engine_that_may_not_fork_leaves_no_template(home: Home) -> None:
    made = plan(home)
    env = {**made.engine.env, "QLAUNCH_START_METHOD": "spawn"}
    engine = EnginePlan(
        release="fake", version="0", python=sys.executable, argv=made.engine.argv, env=env
    )
    assert home.up(msgspec.structs.replace(made, engine=engine)).state == "ready"
    assert control.status("svc").template is None


class Order:
    """A command that is never run."""

    argv = (sys.executable, "-c", "raise SystemExit")
    cwd = Path("/")

    def __init__(self, **env: str) -> None:
        self.env = env


@pytest.fixture
def idle() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for a template, and ends with the test."""
    with running(["sleep", "600"]) as handle:
        yield handle
        handle.kill()


@pytest.mark.parametrize("answer", [b"", b"{}", b"no JSON", b'{"pid": "x"}', b'{"pid": 0}'])
def test_a_template_that_does_not_fork_is_given_up(
    idle: subprocess.Popen[bytes], answer: bytes, monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    """It hangs, refuses, or answers nonsense: the start imports instead, and it is ended."""
    monkeypatch.setattr(template, "FORK_S", 0.2)
    monkeypatch.setattr(process_tree, "is_subreaper", lambda: True)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    if answer:
        theirs.send(answer)
    loop = Loop()
    lines: list[str] = []
    one = template.Template(loop, lines.append, lambda _: None)
    one._channel, one.process = ours, processes.process_id(idle.pid)
    one._imported = template.imported(sys.executable, {})
    child = one.start(Order(), plan(home))
    assert idle.wait(PATIENCE_S) == -signal.SIGKILL
    assert "forked nothing within 0.2 s" in lines[0]
    assert child.handle is not None
    child.handle.wait(PATIENCE_S)
    os.close(child.output)
    one.forget()
    theirs.close()
    loop.close()


def test_another_environment_is_not_forked_into(
    idle: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    loop = Loop()
    one = template.Template(loop, lambda _: None, lambda _: None)
    one._channel, one.process = ours, processes.process_id(idle.pid)
    one._imported = template.imported("python3", {"OMP_NUM_THREADS": "2"})
    other = Order(OMP_NUM_THREADS="4")
    assert one._fork(other, "python3") == "was imported from other files or with other variables"
    one.forget()
    theirs.close()
    loop.close()


def test_a_process_seen_before_it_was_another_ones_is_no_member(
    idle: subprocess.Popen[bytes],
) -> None:
    """The template is forked a moment before its supervisor is told."""
    leader = processes.process_id(idle.pid)
    assert leader is not None
    before = process_tree.Tree(leader)  # takes the worker's other children for strangers
    with running(["sleep", "600"], start_new_session=True) as other:
        pids: list[int] = []
        tree = process_tree.Tree(leader, lambda: pids)
        tree._strangers = before._strangers
        assert other.pid in {process.pid for process in tree.scan()}
        pids.append(other.pid)
        now = {process.pid for process in tree.scan()}
        assert idle.pid in now
        assert other.pid not in now


def test_a_template_that_was_lost_does_not_fail_the_service(home: Home) -> None:
    """Both at once: the engine and what would have been forked."""
    before = up(home)
    kill(before.template)
    kill(before.engine)
    now = next_life(before)
    assert now.state == "ready"


def test_a_restart_by_fork_is_not_offered_to_an_error_of_the_plan(home: Home) -> None:
    with pytest.raises(QlaunchError) as failed:
        home.up(plan(home, "--exit-code", "3"))
    assert failed.value.exit_code == 6
    home.assert_nothing_left()
