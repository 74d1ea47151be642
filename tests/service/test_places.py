"""Supervisors in other containers, as PID 1, on other machines, and kernels without pidfds."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from launcher.documents.service_state import GONE, ServiceState
from launcher.errors import QlaunchError
from launcher.linux import mounts, processes, procfs
from launcher.linux.processes import ProcessId
from launcher.service import control, note, reading, store
from launcher.service.recover import settle
from launcher.service.supervisor import worker_watch
from launcher.service.supervisor.event_loop import Loop
from launcher.service.supervisor.worker_watch import EngineWorkers
from tests.children import running
from tests.patience import PATIENCE_S
from tests.service.home import Home, eventually
from tests.service.test_state import state as written

NO_PIDFD = (
    "import errno, os\ndef none(*_):\n    raise OSError(errno.{}, 'no')\nos.pidfd_open = none\n"
)
SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]


@pytest.fixture
def container() -> list[str]:
    """What starts a command as PID 1 of a namespace of its own."""
    words = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    done = subprocess.run([*words, "true"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no PID namespace can be made here: {done.stderr.strip()}")
    return words


@pytest.fixture
def inside(home: Home, container: list[str]) -> Iterator[subprocess.Popen[str]]:
    """`up --foreground` of the fake engine as PID 1."""
    with home.starter(home.plan("--workers"), "foreground", within=container) as process:
        yield process
        process.kill()
        print(process.communicate()[0])  # shown where the test failed
        # --kill-child takes a moment; a start that was refused has no state at all.
        eventually(lambda: home.state() is None or control.status("svc").state in GONE)


def outer_pid(process: subprocess.Popen[str]) -> int:
    """PID 1 of the container, as it is called outside."""
    table = processes.all_processes()
    return next(stat.pid for stat in table.values() if stat.parent == process.pid)


def down_inside(pid: int) -> subprocess.CompletedProcess[str]:
    words = ["nsenter", "--target", str(pid), "--pid", "--mount"]
    code = "from launcher.service import control; r = control.down('svc'); print(r.left, r.forced)"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        [*words, sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False
    )


def test_pid_1_of_a_container_is_stopped_by_down_inside(
    home: Home, inside: subprocess.Popen[str]
) -> None:
    """It was never signalled: 27 s, "still there", and the engine was started again."""
    home.wait_for("ready")
    done = down_inside(outer_pid(inside))
    assert (done.returncode, done.stdout.strip()) == (0, "() False"), done.stderr
    assert inside.wait(PATIENCE_S) == 0
    final = control.status("svc")
    assert (final.state, final.restarts, final.failure) == ("stopped", 0, None)


def test_pid_1_of_a_container_is_stopped_by_sigterm_from_outside(
    home: Home, inside: subprocess.Popen[str]
) -> None:
    home.wait_for("ready")
    os.kill(outer_pid(inside), signal.SIGTERM)
    assert inside.wait(PATIENCE_S) == 0
    assert control.status("svc").state == "stopped"


def test_below_a_shell_as_pid_1_whoever_asked_for_the_stop_outlives_it(
    home: Home, container: list[str]
) -> None:
    """`sh -c`, tini: PID 1 ends when its child has, and everybody else with it."""
    shell = [*container, "sh", "-c", '"$@"; exit $?', "sh"]
    with home.starter(home.plan("--workers"), "foreground", within=shell) as process:
        home.wait_for("ready")
        done = down_inside(outer_pid(process))
        assert (done.returncode, done.stdout.strip()) == (0, "() False"), done.stderr
        assert process.wait(PATIENCE_S) == 0
    assert control.status("svc").state == "stopped"


def test_a_service_of_another_container_is_seen_and_left_alone(
    home: Home, inside: subprocess.Popen[str]
) -> None:
    """`down` outside said "not running", and killed the engine as a leftover."""
    first = home.wait_for("ready")
    seen = control.status("svc")
    assert (seen.state, seen.engine, seen.restarts) == ("ready", first.engine, 0)
    assert "another container or PID namespace of this machine" in str(seen.problem)
    for call in (lambda: control.down("svc"), lambda: home.up(home.plan())):
        with pytest.raises(QlaunchError) as caught:
            call()
        assert (caught.value.code, caught.value.exit_code) == ("runs_elsewhere", 9)
    time.sleep(0.5)
    after = control.status("svc")
    assert (after.state, after.engine, after.restarts) == ("ready", first.engine, 0)
    os.kill(outer_pid(inside), signal.SIGKILL)
    inside.wait(PATIENCE_S)
    gone = control.status("svc")  # its lock is free now: it is dead, wherever it was
    assert (gone.state, gone.failure and gone.failure.code) == ("failed", "supervisor_killed")


def stays(process: procfs.Stat, parent: int) -> bool:
    """Whether it is the orphan that sleeps long: the other one may still be there too."""
    try:
        words = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    except OSError:  # gone since
        return False
    return process.parent == parent and words == b"sleep\x0060\x00"


def test_orphans_of_the_container_are_reaped_and_are_not_the_engines(
    home: Home, inside: subprocess.Popen[str]
) -> None:
    """PID 1 inherits what a `docker exec` leaves; such a process is ended by nobody but itself."""
    home.wait_for("ready")
    pid = outer_pid(inside)
    words = ["nsenter", "--target", str(pid), "--pid", "--mount", "sh", "-c"]
    subprocess.run([*words, "sleep 60 & sleep 0 &"], check=True, capture_output=False)
    left = eventually(lambda: [s for s in processes.all_processes().values() if stays(s, pid)])
    eventually(
        lambda: all(not s.dead for s in processes.all_processes().values() if s.parent == pid)
    )
    time.sleep(0.3)  # some looks at the tree
    tree = {process.pid for process in store.read_tree(store.folder("svc"))}
    status = Path(f"/proc/{left[0].pid}/status").read_text().splitlines()
    inner = next(line for line in status if line.startswith("NSpid")).split()[-1]
    assert int(inner) not in tree
    assert processes.is_alive(processes.identity_of(left[0]))


def elsewhere(boot: str = "other", namespace: int = 4711) -> ProcessId:
    return ProcessId(pid=os.getpid(), start_ticks=1, boot_id=boot, namespace=namespace)


def test_a_process_of_another_namespace_is_neither_alive_nor_signalled() -> None:
    with running(SLEEP) as sleeper:
        mine = processes.process_id(sleeper.pid)
        assert mine is not None
        assert mine.namespace == Path("/proc/self/ns/pid").stat().st_ino
        other = msgspec.structs.replace(mine, namespace=mine.namespace + 1)
        assert not processes.is_alive(other)
        assert not processes.send(other, signal.SIGKILL)
        earlier = msgspec.structs.replace(mine, namespace=0)  # as releases before wrote it
        assert processes.is_alive(earlier)
        assert sleeper.poll() is None
        assert processes.send(earlier, signal.SIGKILL)


def test_another_machines_service_is_left_alone_while_its_lock_is_held(
    home: Home, tmp_path: Path
) -> None:
    where = store.folder("svc", create=True)
    store.write_state(where, written(supervisor=elsewhere(), host="nas-client"))
    with store.Lock(where.lock) as lock:
        assert lock.acquire()
        lock.sign(elsewhere())
        found = settle("svc")
        assert found is not None
        assert found.state == "ready"
        assert "on another machine (nas-client)" in str(found.problem)
        with pytest.raises(QlaunchError) as caught:
            control.down("svc")
        assert caught.value.code == "runs_elsewhere"


def test_a_free_lock_on_a_network_disk_does_not_prove_another_machines_service_dead(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = store.folder("svc", create=True)
    store.write_state(where, written(supervisor=elsewhere(), host="nas-client"))
    with monkeypatch.context() as patch:
        patch.setattr(mounts, "network_kind", lambda path: "nfs4")
        found = control.status("svc")
        assert (found.state, found.failure) == ("unknown", None)
        assert "nas-client" in str(found.problem)
        with pytest.raises(QlaunchError) as caught:
            control.down("svc")
        assert caught.value.code == "runs_elsewhere"
        assert str(where.path) in str(caught.value.fix)
    after = control.status("svc")  # a local disk: whoever had it is gone
    assert after.state == "failed"


@pytest.mark.parametrize(
    ("kind", "expected"), [("nfs4", "nfs4"), ("fuse.sshfs", "fuse.sshfs"), ("ext4", None)]
)
def test_the_kind_of_a_file_system_is_that_of_its_nearest_mount(
    tmp_path: Path, kind: str, expected: str | None
) -> None:
    home = tmp_path / "a home"
    home.mkdir()
    table = tmp_path / "mountinfo"
    point = str(home).replace(" ", "\\040")
    table.write_text(
        f"21 1 0:1 / / rw - tmpfs none rw\n22 21 0:2 / {point} rw shared:1 - {kind} srv:/x rw\n"
    )
    assert mounts.network_kind(home / "state", table) == expected
    assert mounts.network_kind(tmp_path, table) is None
    assert mounts.network_kind(home, tmp_path / "none") is None


def test_proc_of_another_namespace_is_refused_in_a_sentence(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`unshare --pid` without `--mount-proc`: its numbers are other processes."""
    (tmp_path / "self").symlink_to("1")
    assert processes.proc_problem() is None
    assert "another PID namespace" in str(processes.proc_problem(tmp_path))
    assert "cannot be read" in str(processes.proc_problem(tmp_path / "none"))
    with monkeypatch.context() as patch, subprocess.Popen(SLEEP) as sleeper:
        patch.setattr(processes, "proc_problem", lambda: "/proc shows others")
        with pytest.raises(QlaunchError) as caught:
            home.up(home.plan())
        assert (caught.value.code, caught.value.exit_code) == ("proc_unusable", 1)
        mine = processes.process_id(sleeper.pid)
        assert mine is not None
        assert not processes.send(mine, signal.SIGKILL)
        sleeper.kill()


@pytest.mark.parametrize("code", ["ENOSYS", "EPERM", "EMFILE"])
def test_without_pidfds_services_start_and_stop_and_dead_parts_are_seen(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    """Signals were silently not sent."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(NO_PIDFD.format(code))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    home.options["timing"]["limb_s"] = 0.1

    def none(_pid: int, _flags: int = 0) -> int:
        raise OSError(getattr(errno, code), "no")

    monkeypatch.setattr(os, "pidfd_open", none)
    first = home.up(home.plan("--workers", "--ignore-sigterm"))
    assert first.engine is not None
    below = procfs.descendants([first.engine.pid], processes.all_processes())
    part = next(
        processes.identity_of(s)
        for pid in below
        if (s := processes.read_stat(pid)) and s.command.startswith("sglang::schedul")
    )
    assert processes.send(part, signal.SIGKILL)
    again = eventually(lambda: (s := control.status("svc")).state == "ready" and s.restarts and s)
    assert again.engine != first.engine
    done = control.down("svc")
    assert (done.left, done.forced) == ((), False)


def test_a_part_without_a_pidfd_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_pid: int, _flags: int = 0) -> int:
        raise OSError(errno.ENOSYS, "no")

    monkeypatch.setattr(os, "pidfd_open", none)
    monkeypatch.setattr(worker_watch, "role_of", lambda title: "scheduler")
    monkeypatch.setattr(worker_watch, "POLL_S", 0.01)
    told: list[str] = []
    loop = Loop()
    with running(SLEEP) as sleeper:
        process = processes.process_id(sleeper.pid)
        assert process is not None
        leader = ProcessId(pid=1, start_ticks=0, boot_id="")
        watched = EngineWorkers(loop, leader, lambda role, who: told.append(role))
        watched.look([process])
        sleeper.kill()
        sleeper.wait()
        deadline = time.monotonic() + PATIENCE_S
        while not told and time.monotonic() < deadline:
            loop.turn()
        watched.look([process])
        watched.close()
    loop.close()
    assert told == ["scheduler"]


def test_a_note_survives_a_full_disk_and_says_how_old_it_is(home: Home) -> None:
    where = store.folder("svc", create=True)
    me = processes.process_id(os.getpid())
    assert me is not None
    with store.Lock(where.lock) as lock:
        assert lock.acquire()
        lock.sign(me)
        size = where.lock.stat().st_size
        lock.write(note.of(me, written(supervisor=me, detail="ü" * 5000), OSError(28, "full")))
        assert where.lock.stat().st_size == size
        found = note.read(where)
        assert store.lock_holder(where) == me
    assert found is not None
    assert (found.supervisor, found.state, found.host) == (me, "ready", os.uname().nodename)
    assert found.unwritten == os.strerror(28)
    assert found.age_s is not None
    assert found.age_s < 60
    old = msgspec.structs.replace(found, boot_id="before")
    assert old.age_s is None


def test_a_note_of_an_earlier_release_is_read(home: Home) -> None:
    where = store.folder("svc", create=True)
    where.lock.write_text('{"pid":5,"start_ticks":6,"boot_id":"b"}')
    found = note.read(where)
    assert found is not None
    assert (found.supervisor.pid, found.at, found.age_s) == (5, None, None)
    where.lock.write_text("")
    assert note.read(where) is None
    assert reading.last_words(where, written()) is None


def test_upgraded_under_a_running_service_its_old_state_is_still_its_own(home: Home) -> None:
    """A state of the release before has no namespace: its supervisor is found all the same."""
    state = home.up(home.plan())
    assert state.supervisor is not None
    supervisor = msgspec.structs.replace(state.supervisor, namespace=0)
    where = store.folder("svc")
    store.write_state(where, msgspec.structs.replace(state, supervisor=supervisor))
    assert control.status("svc").state == "ready"
    done = control.down("svc")
    assert (done.was_running, done.left) == (True, ())


def is_gone(state: ServiceState | None) -> bool:
    return state is not None and state.state == "failed"


def test_a_reboot_makes_old_pids_nobodys(home: Home) -> None:
    """The same numbers after a reboot are other processes, whatever they are."""
    where = store.folder("svc", create=True)
    with running(SLEEP) as sleeper:
        real = processes.process_id(sleeper.pid)
        assert real is not None
        before = msgspec.structs.replace(real, boot_id="before")
        store.write_state(where, written(supervisor=before, engine=before, host=processes.host()))
        store.write_tree(where, [before])
        assert is_gone(control.status("svc"))
        assert control.down("svc").left == ()
        assert sleeper.poll() is None
        sleeper.kill()
