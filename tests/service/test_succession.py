"""A restart that costs no import: the supervisor executes its successor, with the template."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from subprocess import PIPE
from typing import Any

import msgspec
import pytest

from launcher.documents.service_state import ServiceState
from launcher.errors import QlaunchError
from launcher.linux import limits, processes
from launcher.paths import dirs
from launcher.record.runs import load_run
from launcher.service import control, handover, process_tree, store, succession
from launcher.service.handover import Standby
from tests.children import running
from tests.service import sets, test_shared_template, test_template
from tests.service.home import Home, eventually
from tests.service.test_template import kill

pytestmark = pytest.mark.skipif(
    not process_tree.can_be_subreaper(), reason="this kernel lets no process adopt orphans"
)


def stand_by() -> Standby:
    kept = handover.stand_by("svc")
    assert kept is not None
    return kept


def restart(home: Home, **changes: Any) -> ServiceState:
    plan = msgspec.structs.replace(store.read_plan(store.folder("svc")), **changes)
    with stand_by() as kept:
        return kept.launch(plan, entry=home.entry)


def journal() -> str:
    return store.folder("svc").log.read_text()


def test_the_next_supervisor_inherits_the_template(home: Home) -> None:
    before = test_template.up(home)
    now = restart(home)
    assert now.state == "ready"
    assert (now.supervisor, now.template) == (before.supervisor, before.template)
    assert now.engine != before.engine
    assert now.run != before.run
    assert "was forked in" in journal()
    assert not processes.is_alive(before.engine)
    runs = [load_run(dirs().runs, run) for run in (before.run, now.run)]
    assert [(run.outcome, run.forked) for run in runs] == [("stopped", False), ("running", True)]
    control.down("svc")
    home.assert_nothing_left()


def test_it_can_be_restarted_again_and_again_and_killed(home: Home) -> None:
    before = test_template.up(home)
    for _ in range(2):
        now = restart(home)
        assert now.template == before.template
    kill(now.engine)
    assert test_template.next_life(now).template == before.template
    kill(now.supervisor)
    eventually(lambda: not processes.is_alive(before.template))


def test_another_plan_is_another_engine(home: Home) -> None:
    """And the address may be another one: the new plan's."""
    test_template.up(home)
    now = restart(home, model_name="fake")
    other = home.plan().port
    moved = restart(home, port=other)
    assert moved.endpoint != now.endpoint
    assert str(other) in str(moved.endpoint)


def test_the_next_one_has_the_environment_of_the_command(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As every start has, not that of a shell of weeks ago."""
    test_template.up(home)
    monkeypatch.setenv("OMP_PROC_BIND", "false")
    now = restart(home)
    assert now.supervisor is not None
    environ = Path(f"/proc/{now.supervisor.pid}/environ").read_bytes().split(b"\0")
    assert b"OMP_PROC_BIND=false" in environ
    assert "was imported from other files or with other variables" in journal()


def test_whoever_leaves_without_a_start_leaves_nothing(home: Home) -> None:
    before = test_template.up(home)
    with stand_by():
        assert control.status("svc").state == "stopped"
        assert processes.is_alive(before.template)
    eventually(lambda: not processes.is_alive(before.template))
    assert not processes.is_alive(before.supervisor)
    home.assert_nothing_left()
    assert home.up(test_template.plan(home)).state == "ready"


def test_a_command_that_dies_leaves_nothing(home: Home) -> None:
    before = test_template.up(home)
    assert before.supervisor is not None
    with running(["sleep", "600"]) as other:
        command = processes.process_id(other.pid)
        assert command is not None
        succession.leave(store.folder("svc"), succession.Heir(command=command))
        processes.send(before.supervisor, succession.ASK)
        eventually(lambda: control.status("svc").state == "stopped")
        assert processes.is_alive(before.supervisor)
        other.kill()
    eventually(lambda: not processes.is_alive(before.supervisor))
    eventually(lambda: not processes.is_alive(before.template))


def test_a_program_that_cannot_be_executed_is_started_as_ever(home: Home) -> None:
    before = test_template.up(home)
    plan = store.read_plan(store.folder("svc"))
    with stand_by() as kept, pytest.raises(OSError, match="No such file"):
        kept.launch(plan, entry=("/nowhere/python", "-m", "supervise"))
    assert not processes.is_alive(before.template)
    home.assert_nothing_left()


def test_a_taken_port_is_told_and_nothing_is_left(home: Home) -> None:
    before = test_template.up(home)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        plan = msgspec.structs.replace(store.read_plan(store.folder("svc")), port=port)
        with stand_by() as kept, pytest.raises(QlaunchError, match="port"):
            kept.launch(plan, entry=home.entry)
    eventually(lambda: not processes.is_alive(before.supervisor))
    home.assert_nothing_left()


def test_a_full_disk_is_no_reason_to_go_on(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    test_template.up(home)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(succession, "leave", full)
    assert handover.stand_by("svc") is None
    assert control.status("svc").state == "ready"


@pytest.mark.parametrize("kind", ["a file", "a copy", "a folder"])
def test_a_supervisor_whose_lock_was_replaced_is_not_asked(
    home: Home, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes no state any more: its last one was waited for, for half a minute."""
    before = test_template.up(home)
    lock = store.folder("svc").lock
    held = lock.read_bytes()
    lock.unlink()
    if kind == "a folder":
        lock.mkdir()
    else:
        lock.write_bytes(held if kind == "a copy" else b"x")
    monkeypatch.delattr(succession, "leave")
    assert handover.stand_by("svc") is None
    if kind == "a folder":
        with pytest.raises(QlaunchError, match="'svc' was stopped, and cannot be noted") as told:
            control.down("svc")
        assert told.value.code == "state_dir_unsafe"
        lock.rmdir()
    else:
        assert control.down("svc").was_running
    assert not processes.is_alive(before.supervisor)
    assert not processes.is_alive(before.engine)
    assert home.up(test_template.plan(home)).state == "ready"


@pytest.mark.parametrize("what", ["no template", "an older supervisor", "other limits", "stopped"])
def test_where_it_cannot_be_the_service_is_stopped_as_ever(
    home: Home, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = test_template.up(home)
    if what == "no template":
        kill(before.template)
        eventually(lambda: control.status("svc").template is None)
    elif what == "an older supervisor":
        monkeypatch.setattr(processes, "catches", lambda _process, _signum: False)
    elif what == "other limits":
        monkeypatch.setattr(limits, "same_as", lambda _pid: False)
    else:
        kill(before.supervisor, signal.SIGSTOP)
    assert handover.stand_by("svc") is None
    assert processes.is_alive(before.supervisor)
    if what == "stopped":
        kill(before.supervisor, signal.SIGCONT)
    assert control.status("svc").state in {"ready", "unknown"}


def test_a_replica_of_a_set_at_work_is_not_restarted_alone(home: Home) -> None:
    """Its set would lose it in the middle of its calls."""
    now = test_shared_template.up(home)
    with pytest.raises(QlaunchError) as refused:
        handover.stand_by("svc.1")
    assert refused.value.code == "is_replica"
    assert control.status("svc").serving == len(now.replicas) == 2


def test_a_set_does_not_take_another_services_name(home: Home) -> None:
    """Its plan was written over that of a service called NAME.1, which ran."""
    test_template.up(home)
    other = home.plan(name="svc.1")
    home.up(other)
    before = store.read_plan(store.folder("svc.1"))
    with pytest.raises(QlaunchError) as refused, stand_by() as kept:
        kept.launch(test_shared_template.plan(home), entry=home.entry)
    assert refused.value.code == "name_taken"
    assert store.read_plan(store.folder("svc.1")) == before
    assert control.status("svc.1").state == "ready"


def test_a_set_takes_the_template_of_the_single_engine_before_it(home: Home) -> None:
    before = test_template.up(home)
    sets.arrange(home)
    made = test_shared_template.plan(home)
    single = store.read_plan(store.folder("svc"))
    with stand_by() as kept:
        now = kept.launch(
            msgspec.structs.replace(single, replica_set=made.replica_set), entry=home.entry
        )
    assert now.template == before.template
    assert journal().count("a supervisor, process ") == 2
    assert now.supervisor is not None
    below = [
        stat.pid
        for stat in processes.all_processes().values()
        if stat.parent == now.supervisor.pid and stat.pid == (now.template and now.template.pid)
    ]
    assert len(below) == 1
    control.down("svc")
    home.assert_nothing_left()


def test_a_plan_without_a_template_ends_the_one_that_was_left(home: Home) -> None:
    before = test_template.up(home)
    plan = msgspec.structs.replace(home.plan(), template=False)
    with stand_by() as kept:
        now = kept.launch(plan, entry=home.entry)
    assert (now.state, now.template) == ("ready", None)
    eventually(lambda: not processes.is_alive(before.template))
    assert not load_run(dirs().runs, now.run).forked


def test_an_import_after_a_restart_is_a_measure_of_a_start(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The template was inherited, and did not serve: nothing was forked."""
    test_template.up(home)
    monkeypatch.setenv("OMP_PROC_BIND", "false")
    assert not load_run(dirs().runs, restart(home).run).forked
    assert load_run(dirs().runs, restart(home).run).forked


def test_a_log_that_cannot_be_put_aside_keeps_no_service_down(home: Home) -> None:
    """`restart` had stopped it, and ended with an unexpected IsADirectoryError."""
    test_template.up(home)
    where = store.folder("svc")
    where.log.with_name(f"{where.log.name}.1").mkdir()
    before = where.log.read_text()
    now = restart(home)
    assert now.state == "ready"
    assert journal().startswith(before)
    control.down("svc")
    assert home.up(test_template.plan(home)).state == "ready"


def test_no_word_for_a_successor_stays(home: Home) -> None:
    test_template.up(home)
    with stand_by():
        pass
    assert not list(store.folder("svc").path.glob("successor*"))


def test_what_is_caught_is_read_of_a_process() -> None:
    me = processes.process_id(os.getpid())
    assert me is not None
    before = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        assert processes.catches(me, signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert not processes.catches(me, signal.SIGUSR2)
    assert limits.same_as(os.getpid())
    assert not limits.same_as(2**22 + 1)


@pytest.mark.parametrize(
    "limit",
    [
        *("umask 0077", "ulimit -s 4096", "ulimit -n 77", "renice 5 $$", "chrt -b -p 0 $$"),
        "{ echo 700 > /proc/self/oom_score_adj; }",
    ],
)
def test_what_a_process_hands_down_is_compared(limit: str) -> None:
    """A successor keeps its own, whatever the shell of the restart has."""
    script = f"{limit} >&2; echo ready; read -r _"
    with running(["/bin/bash", "-c", script], stdin=PIPE, stdout=PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        assert not limits.same_as(other.pid)
        other.kill()


def test_a_stray_signal_changes_nothing(home: Home) -> None:
    before = test_template.up(home)
    kill(before.supervisor, succession.ASK)
    eventually(lambda: "SIGUSR2 without a command that restarts: ignored" in journal())
    now = control.status("svc")
    assert (now.state, now.engine) == ("ready", before.engine)
