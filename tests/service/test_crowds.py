"""Services beside other commands, users and terminals: loops, hang-ups, foreign folders."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from launcher.errors import QlaunchError
from launcher.linux import processes
from launcher.paths import dirs
from launcher.service import control, store
from tests.children import running
from tests.patience import PATIENCE_S
from tests.service.home import Home, eventually

ROOT = Path(__file__).parents[2]


def test_up_and_down_in_a_loop_leave_nothing_behind(home: Home) -> None:
    """Ten lives; two hundred in `make soak`."""
    plan = home.plan("--workers")
    for _ in range(10):
        assert home.up(plan).state == "ready"
        done = control.down("svc")
        assert (done.was_running, done.left, done.forced) == (True, (), False)
        home.assert_nothing_left()


def test_ups_and_downs_from_everywhere_end_in_one_true_state(home: Home) -> None:
    """Each call wins or says why not; what is said in the end is so."""
    plan = home.plan("--workers")
    codes: set[str] = set()
    for _ in range(4):
        ups = [home.up_beside(plan) for _ in range(2)]
        time.sleep(0.05)
        try:
            control.down("svc")
        except QlaunchError as error:
            codes.add(error.code)
        for call in ups:
            found = call.join().error
            assert found is None or isinstance(found, QlaunchError)
            if found is not None:
                codes.add(found.code)
    assert codes <= {"already_running", "busy", "port_taken", "stopped_meanwhile"}
    state = control.status("svc")
    assert state.state in {"ready", "stopped"}
    assert bool(processes.is_alive(state.supervisor)) == (state.state == "ready")
    control.down("svc")
    assert control.status("svc").state == "stopped"


def test_two_downs_at_once_both_end_well(home: Home) -> None:
    home.up(home.plan("--workers", "--drain", "0.5"))
    code = (
        "import sys\nfrom launcher.errors import QlaunchError\n"
        "from launcher.service import control as client\n"
        "try:\n    r = client.down('svc')\n    print(r.left, r.forced)\n"
        "except QlaunchError as e:\n    print(e.code)\n    sys.exit(int(e.exit_code))\n"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [each.communicate(timeout=PATIENCE_S)[0].strip() for each in both]
    assert "() False" in said
    assert set(said) <= {"() False", "busy"}
    assert control.status("svc").state == "stopped"


def in_terminal(home: Home, plan_words: list[str], *more: str) -> tuple[int, int]:
    """`up` as the session leader of a pseudo-terminal; its PID and our end."""
    options = home.entry[2]
    path = home.root / "given-plan.json"
    path.write_bytes(msgspec.json.encode(home.plan(*plan_words)))
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        words = [sys.executable, "-m", "tests.service.starter", options, str(path), *more]
        os.execv(sys.executable, words)
    return pid, master


def test_a_closed_terminal_stops_up_foreground_in_order(home: Home) -> None:
    pid, master = in_terminal(home, ["--workers"], "foreground")
    home.wait_for("ready")
    os.close(master)  # the kernel sends SIGHUP
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    final = control.status("svc")
    assert (final.state, final.failure) == ("stopped", None)


def test_a_closed_terminal_ends_up_and_not_the_start(home: Home) -> None:
    """Whoever waits goes with the terminal; the supervisor has a session of its own."""
    pid, master = in_terminal(home, ["--workers", "--slow-start", "1"])
    home.wait_for("loading")
    os.close(master)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGHUP
    assert home.wait_for("ready").failure is None


def test_nohup_keeps_up_foreground_when_the_terminal_is_closed(home: Home) -> None:
    with home.starter(home.plan("--workers"), "foreground", within=["nohup"]) as process:
        home.wait_for("ready")
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert control.status("svc").state == "ready"
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


def test_state_of_another_user_is_refused_in_a_sentence(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two users of one QLAUNCH_HOME: the second may neither start nor stop there."""
    home.up(home.plan())
    mine = os.geteuid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: mine + 1)
        with pytest.raises(QlaunchError) as caught:
            home.up(home.plan(name="other"))
        assert caught.value.code == "state_dir_unsafe"
        assert f"belongs to user {mine}" in caught.value.message
    assert control.status("svc").state == "ready"


def test_a_state_that_may_not_be_read_is_unknown_and_says_so(home: Home) -> None:
    """`chmod 000`, as anybody but root meets it: as another user, where one can be taken."""
    state = home.up(home.plan())
    where = store.folder("svc")
    where.state.chmod(0)
    try:
        if os.geteuid() == 0:
            assert control.status("svc").state == "ready"  # modes do not bind root
        else:
            found = control.status("svc")
            assert found.state == "unknown"
            assert "Permission denied" in str(found.problem)
    finally:
        where.state.chmod(0o600)
    assert control.down("svc").left == ()
    assert not processes.is_alive(state.engine)


def test_an_up_lock_that_cannot_be_opened_is_a_sentence(home: Home) -> None:
    where = store.folder("svc", create=True)
    where.up_lock.mkdir()
    for call in (lambda: home.up(home.plan()), lambda: control.down("svc")):
        with pytest.raises(QlaunchError) as caught:
            call()
        assert (caught.value.code, caught.value.exit_code) == ("state_dir_unsafe", 1)
        assert str(where.up_lock) in caught.value.message
        assert caught.value.fix
    where.up_lock.rmdir()


@pytest.mark.parametrize("what", ["state.json", "tree.json", "plan.json", "lock", "up.lock"])
def test_a_file_removed_under_a_running_service_hides_and_ends_nothing(
    home: Home, what: str
) -> None:
    first = home.up(home.plan("--workers"))
    (store.folder("svc").path / what).unlink()
    time.sleep(0.3)
    if what == "state.json":
        eventually(lambda: home.state() is not None)  # written again with the next change
    now = control.status("svc")
    assert (now.state, now.engine, now.restarts) == ("ready", first.engine, 0)
    done = control.down("svc")
    assert (done.was_running, done.left) == (True, ())
    assert not processes.is_alive(first.engine)


def test_the_run_record_removed_under_a_running_service_is_told_by_logs(home: Home) -> None:
    state = home.up(home.plan())
    shutil.rmtree(dirs().runs / state.run, ignore_errors=True)
    assert control.status("svc").state == "ready"


def test_a_zombie_supervisor_is_dead(home: Home) -> None:
    """As below a container's PID 1 that reaps nobody."""
    with home.starter(home.plan("--workers"), "foreground") as parent:
        state = home.wait_for("ready")
        assert state.supervisor is not None
        os.kill(state.supervisor.pid, signal.SIGKILL)
        # Its parent is this test, which has not waited for it yet.
        eventually(lambda: (s := processes.read_stat(parent.pid)) is not None and s.dead)
        found = control.status("svc")
        assert (found.state, found.failure and found.failure.code) == (
            "failed",
            "supervisor_killed",
        )


@pytest.mark.parametrize("halted", [False, True])
def test_a_command_that_is_in_the_way_is_named_and_that_it_is_halted(
    home: Home, halted: bool
) -> None:
    """A `restart` that Ctrl-Z halted: `down` was told to wait for it, without an end."""
    where = store.folder("svc", create=True)
    with running(["sleep", "600"]) as other, control.sole(where) as lock:
        command = processes.process_id(other.pid)
        assert command is not None
        lock.sign(command)
        if halted:
            other.send_signal(signal.SIGSTOP)
            eventually(lambda: processes.is_stopped(command))
        with pytest.raises(QlaunchError) as caught:
            control.sole(where)
        other.kill()
    assert caught.value.code == "busy"
    assert re.search(rf"process {other.pid} \(sleep\), \d+ s old", caught.value.message)
    assert ("is stopped" in caught.value.message) == halted
    assert (f"kill -CONT {other.pid}" in str(caught.value.fix)) == halted
