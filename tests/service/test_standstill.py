"""Supervisors and engines that stand still: nobody may be told that they are well."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from launcher.documents.service_state import UP, ServiceState
from launcher.errors import QlaunchError
from launcher.linux import processes
from launcher.linux.processes import ProcessId
from launcher.service import control, note, reading, store
from tests.cli.commandline import Run
from tests.cli.conftest import run
from tests.service.home import Home, eventually
from tests.service.test_full_disk import fill, small
from tests.service.test_state import state as written
from tests.service.test_vigilance import worker

__all__ = ["run", "small"]

BRISK = {"beat_s": 0.2, "health_timeout_s": 2.0, "patient_s": 2.0, "hang_failures": 50}


def stop(process: ProcessId | None) -> ProcessId:
    assert process is not None
    assert processes.send(process, signal.SIGSTOP)
    eventually(lambda: processes.is_stopped(process))
    return process


@pytest.mark.parametrize("name", ["front", "schedul", "detoken"])
def test_a_stopped_part_is_degraded_soon_and_ready_when_it_goes_on(home: Home, name: str) -> None:
    """It was "verified" at every look for half a minute."""
    home.options["timing"] |= BRISK | {"beat_s": 600.0}  # the beat alone would be too late
    first = home.up(home.plan("--workers"))
    part = stop(first.engine if name == "front" else worker(first, name))
    found = home.wait_for("degraded")
    assert f"(process {part.pid}) is stopped (SIGSTOP)" in found.detail
    assert control.status("svc").state == "degraded"
    assert processes.send(part, signal.SIGCONT)
    again = home.wait_for("ready")
    assert (again.engine, again.restarts) == (first.engine, 0)


def test_a_beat_that_passes_does_not_make_a_halted_engine_well(home: Home) -> None:
    """The fake front answers whatever its scheduler does, as `/health` has been seen to."""
    home.options["timing"] |= BRISK
    first = home.up(home.plan("--workers"))
    part = stop(worker(first, "schedul"))
    home.wait_for("degraded")
    time.sleep(1.0)  # five beats, all of them answered
    now = control.status("svc")
    assert (now.state, now.restarts) == ("degraded", 0)
    assert processes.send(part, signal.SIGCONT)
    home.wait_for("ready")


def test_a_stopped_part_of_a_start_is_told_and_forgotten_when_it_goes_on(home: Home) -> None:
    call = home.up_beside(home.plan("--workers", "--never-listen"))
    front = stop(home.wait_for("loading").engine)
    found = eventually(lambda: (s := control.status("svc")).detail and s)
    assert found.detail == f"the engine's front (process {front.pid}) is stopped (SIGSTOP)"
    assert processes.send(front, signal.SIGCONT)
    eventually(lambda: control.status("svc").detail == "")
    control.down("svc")
    call.join()


def test_a_stopped_smoke_process_is_told(home: Home) -> None:
    home.options["verify"] = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
    call = home.up_beside(home.plan("--workers"))
    state = home.wait_for("verifying")
    assert state.supervisor is not None
    table = processes.all_processes()
    smoke = next(
        processes.identity_of(stat)
        for stat in table.values()
        if stat.parent == state.supervisor.pid and processes.identity_of(stat) != state.engine
    )
    stop(smoke)
    eventually(lambda: f"the smoke process {smoke.pid} is stopped" in control.status("svc").detail)
    assert processes.send(smoke, signal.SIGCONT)
    control.down("svc")
    call.join()


def test_a_stopped_supervisor_is_not_answering(home: Home, run: Run) -> None:
    """Its last words were "ready, verified", and readers went on saying so."""
    state = home.up(home.plan("--workers"))
    supervisor = stop(state.supervisor)
    found = control.status("svc")
    assert found.state == "unknown"
    assert f"supervisor (process {supervisor.pid}) is stopped" in str(found.problem)
    assert (found.engine, found.endpoint, found.run) == (state.engine, state.endpoint, state.run)
    answer = run("status", "svc", "--json")
    assert (answer.code, answer.error["code"]) == (3, "state_unknown")
    assert answer.data["supervisor_pid"] == supervisor.pid
    listed = run("ps")
    assert "unknown" in listed.out
    assert "not answering" in listed.out
    with pytest.raises(QlaunchError) as caught:
        home.up(home.plan())
    assert caught.value.code == "already_running"
    assert processes.send(supervisor, signal.SIGCONT)
    eventually(lambda: control.status("svc").state == "ready")


def test_down_lets_a_stopped_supervisor_go_on_and_end_in_order(home: Home) -> None:
    """It waited 26 s for it, and then killed it."""
    state = home.up(home.plan("--workers"))
    stop(state.supervisor)
    done = control.down("svc")
    assert (done.forced, done.left) == (False, ())
    assert done.state is not None
    assert done.state.state == "stopped"


def test_a_supervisor_that_does_not_move_is_told_by_the_age_of_its_note(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under a cgroup's freezer, or on a disk that does not answer: not stopped, and silent."""
    state = home.up(home.plan())
    assert state.supervisor is not None
    where = store.folder("svc")
    assert reading.stuck(where, state.supervisor) is None
    seen = note.read(where)
    assert seen is not None
    before = seen.at
    assert before is not None
    later = eventually(lambda: (n := note.read(where)) and (n.at or 0.0) > before and n)
    assert (later.state, later.unwritten) == ("ready", "")
    monkeypatch.setattr(note, "SILENT_S", -1.0)
    found = control.status("svc")
    assert found.state == "unknown"
    assert "has not moved for" in str(found.problem)


def test_up_says_that_its_supervisor_stands_still_and_gives_up(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited for ever: the supervisor keeps the time limit of a start."""
    monkeypatch.setattr(control, "FROZEN_S", 0.5)
    monkeypatch.setattr(reading, "LOOK_S", 0.05)
    seen: list[ServiceState] = []
    call = home.up_beside(home.plan("--never-listen"), seen)
    stop(home.wait_for("loading").supervisor)
    error = call.join().error
    assert isinstance(error, QlaunchError)
    assert (error.code, error.exit_code) == ("supervisor_stuck", 8)
    assert any("is stopped (SIGSTOP)" in state.detail for state in seen)


def test_clocks_that_jump_change_no_age(home: Home) -> None:
    """Ages of notes are of the monotonic clock; the time of day is shown and not reckoned with."""
    me = processes.process_id(os.getpid())
    assert me is not None
    where = store.folder("svc", create=True)
    with store.Lock(where.lock) as lock:
        assert lock.acquire()
        for since in ("1970-01-01T00:00:00.000Z", "2262-01-01T00:00:00.000Z"):
            lock.sign(me)
            lock.write(note.of(me, written(supervisor=me, since=since), None))
            store.write_state(where, written(supervisor=me, since=since))
            assert reading.stuck(where, me) is None
            assert control.status("svc").state == "ready"
    store.write_state(where, written(state="stopped"))


def test_a_dead_engine_on_a_full_disk_is_not_called_ready(small: Path, home: Home) -> None:
    """`state.json` cannot be replaced: 22 s after its death the engine was "ready, verified"."""
    first = home.up(home.plan("--workers"))
    assert first.engine is not None
    full = fill(small)
    assert processes.send(first.engine, signal.SIGKILL)
    eventually(lambda: not processes.is_alive(first.engine))
    seen: list[ServiceState] = []

    def moved_on() -> bool:
        seen.append(control.status("svc"))
        assert not (seen[-1].state in UP and seen[-1].engine == first.engine) or (
            seen[-1].state == "degraded"
        )
        return seen[-1].state in UP and seen[-1].engine != first.engine

    eventually(moved_on)
    assert seen[-1].restarts == 1
    assert "cannot be written: No space left on device" in str(seen[-1].problem)
    assert processes.is_alive(seen[-1].engine)
    full.unlink()
    eventually(lambda: control.status("svc").problem is None)
    assert home.state() == control.status("svc")


def test_a_stop_on_a_full_disk_is_remembered_as_a_stop(small: Path, home: Home) -> None:
    home.up(home.plan("--workers"))
    fill(small)
    done = control.down("svc")
    assert done.left == ()
    assert done.state is not None
    assert done.state.state == "stopped"
    assert control.status("svc").state == "stopped"


def test_a_reader_beside_a_thousand_changes_never_sees_half_a_state(home: Home) -> None:
    where = store.folder("svc", create=True)
    me = processes.process_id(os.getpid())
    assert me is not None
    code = (
        "from launcher.service import control as client\n"
        "seen = {client.status('svc').state for _ in range(200)}\n"
        "print(sorted(seen))\n"
    )
    with store.Lock(where.lock) as lock:
        assert lock.acquire()
        lock.sign(me)
        store.write_state(where, written(supervisor=me))
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
        ) as reader:
            for turn in range(1000):
                now = written(supervisor=me, state=("ready", "loading")[turn % 2])
                store.write_state(where, now)
                lock.write(note.of(me, now, None))
            out, _ = reader.communicate()
    assert reader.returncode == 0
    assert set(eval(out)) <= {"ready", "loading"}
    store.write_state(where, msgspec.structs.replace(written(), state="stopped"))
