"""Processes by identity, and trees that are stopped to the last leaf."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.linux import processes, procfs
from launcher.linux.processes import ProcessId
from launcher.service.process_tree import (
    Child,
    Patience,
    Tree,
    kill_leftovers,
    reap,
    run_steps,
    spawn,
)
from launcher.service.process_tree import stop as stop_steps
from tests.children import running
from tests.patience import HANG_S, no_hang
from tests.service.home import eventually

PYTHON = [sys.executable, "-S", "-c"]
SLEEP = "import time; time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('x', flush=True); "


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with running([*PYTHON, SLEEP]) as process:
        yield process
        process.kill()


def test_a_process_is_itself_until_it_ends(sleeper: subprocess.Popen[bytes]) -> None:
    identity = processes.process_id(sleeper.pid)
    assert identity is not None
    assert identity.start_ticks > 0
    assert identity.boot_id
    assert processes.is_alive(identity)
    sleeper.kill()
    eventually(lambda: not processes.is_alive(identity))  # a zombie: nobody has waited for it
    stat = processes.read_stat(sleeper.pid)
    assert stat is not None
    assert stat.dead
    assert processes.process_id(sleeper.pid) is None


def test_only_the_very_process_is_signalled(sleeper: subprocess.Popen[bytes]) -> None:
    real = processes.process_id(sleeper.pid)
    assert real is not None
    earlier = ProcessId(pid=real.pid, start_ticks=real.start_ticks - 1, boot_id=real.boot_id)
    elsewhere = ProcessId(pid=real.pid, start_ticks=real.start_ticks, boot_id="other")
    assert not processes.send(earlier, signal.SIGKILL)
    assert not processes.send(elsewhere, signal.SIGKILL)
    assert sleeper.poll() is None
    assert processes.send(real, signal.SIGKILL)
    assert sleeper.wait() == -signal.SIGKILL
    assert not processes.send(real, signal.SIGKILL)


@pytest.mark.parametrize(
    "pid",
    [0, 1, -1, 2**31, 2**70, pytest.param(os.getpid(), id="our own")],  # ids as all workers have
)
def test_some_pids_are_never_signalled(pid: int) -> None:
    stat = processes.read_stat(pid) if 0 < pid < 2**31 else None
    ticks = stat.start_ticks if stat else 0
    process = ProcessId(pid=pid, start_ticks=ticks, boot_id=processes.boot_id())
    assert not processes.send(process, signal.SIGTERM)


def test_a_command_may_hold_spaces_and_parentheses() -> None:
    fields = " ".join(["S", "10", "20", "30", *["0"] * 15, "777", "0"])
    stat = procfs.parse_stat(5, f"5 (a) (b c) {fields}\n".encode())
    assert stat is not None
    assert (stat.command, stat.state, stat.parent) == ("a) (b c", b"S", 10)
    assert (stat.group, stat.session, stat.start_ticks) == (20, 30, 777)


@given(st.binary(max_size=80))
def test_a_cut_stat_is_none(data: bytes) -> None:
    assert procfs.parse_stat(5, data) is None


def test_what_is_marked_is_found(sleeper: subprocess.Popen[bytes]) -> None:
    with running([*PYTHON, SLEEP], env={"QLAUNCH_RUN": "r1"}) as other:
        # The kernel shows an environment a moment after it has let the starter go on.
        found = eventually(lambda: processes.marked("QLAUNCH_RUN=r1"))
        assert [process.pid for process in found] == [other.pid]
        other.kill()
    assert processes.marked("QLAUNCH_RUN=r1") == []


def run(code: str) -> Child:
    return spawn([*PYTHON, code], dict(os.environ), cwd=Path("/"))


def finish(child: Child, tree: Tree, **options: float) -> tuple[list[str], list[str]]:
    patience = Patience(**{"grace_s": 0.4, "children_s": 0.1, "group_s": 0.2, **options})
    steps = stop_steps(child, tree, patience=patience)
    report = run_steps(steps, lambda: reap([child], lambda _: tree.scan()))
    os.close(child.output)
    return report.steps, report.left


def first_line(child: Child) -> None:
    os.set_blocking(child.output, True)
    assert os.read(child.output, 100)


def test_a_spawned_process_leads_its_session_and_inherits_nothing() -> None:
    code = (
        "import os; print(os.getsid(0) == os.getpid(), sorted(os.listdir('/proc/self/fd')),"
        " os.readlink('/proc/self/fd/0'))"
    )
    extra = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(extra, True)
    child = run(code)
    os.set_blocking(child.output, True)
    text = "".join(iter(lambda: os.read(child.output, 1000).decode(), ""))
    os.close(extra)
    assert text == "True ['0', '1', '2', '3'] /dev/null\n"  # 3 is the listing itself
    eventually(lambda: reap([child], lambda _: None) and child.exited)
    assert child.returncode == 0
    os.close(child.output)


def test_a_program_that_is_not_there_raises_and_leaks_nothing() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(FileNotFoundError):
        spawn(["/no/such/program"], {}, cwd=Path("/"))
    with pytest.raises(OSError, match="no/such"):
        spawn([*PYTHON, SLEEP], {}, cwd=Path("/no/such"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_spawned_process_dies_with_its_parent() -> None:
    code = (
        "import os, sys, time\nfrom pathlib import Path\n"
        "from launcher.service.process_tree import spawn\n"
        f"child = spawn({[*PYTHON, SLEEP]!r}, dict(os.environ), cwd=Path('/'))\n"
        "print(child.process.pid, flush=True)\ntime.sleep(60)\n"
    )
    with running([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = processes.process_id(int(parent.stdout.readline()))
        assert processes.is_alive(child)
        parent.kill()
    eventually(lambda: not processes.is_alive(child))


def test_a_polite_process_stops_on_sigterm() -> None:
    child = run(SLEEP)
    steps, left = finish(child, Tree(child.process))
    assert steps == ["the engine stopped on SIGTERM"]
    assert left == []
    assert child.returncode == -signal.SIGTERM


def test_a_stubborn_process_is_killed() -> None:
    child = run(STUBBORN + "time.sleep(60)")
    first_line(child)
    steps, left = finish(child, Tree(child.process))
    assert steps[0] == "the engine ignored SIGTERM for 0.4 s"
    assert steps[-1].startswith("SIGKILL was sent to")
    assert left == []
    assert child.returncode == -signal.SIGKILL


def test_force_skips_the_waiting() -> None:
    child = run(STUBBORN + "time.sleep(60)")
    first_line(child)
    tree = Tree(child.process)
    steps = stop_steps(child, tree, patience=Patience(grace_s=HANG_S), forced=lambda: True)
    with no_hang():
        report = run_steps(steps, lambda: reap([child], lambda _: tree.scan()))
    os.close(child.output)
    assert report.left == []


def test_a_fork_bomb_in_the_small_is_caught_by_killing_again() -> None:
    code = (
        "import os, signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('x', flush=True)\n"
        "for _ in range(20):\n    if os.fork() == 0:\n        os.setsid()\n"
        "        time.sleep(60)\ntime.sleep(60)\n"
    )
    child = run(code)
    first_line(child)
    tree = Tree(child.process)
    eventually(lambda: len(tree.scan()) == 21)
    _, left = finish(child, tree)
    assert left == []
    assert tree.scan() == []


def test_what_cannot_be_proved_is_named() -> None:
    child = run(SLEEP)
    tree = Tree(child.process)
    steps = stop_steps(
        child, tree, patience=Patience(kill_s=0.1), proofs=(lambda: "GPU 0 still holds 1 GiB",)
    )
    report = run_steps(steps, lambda: reap([child], lambda _: tree.scan()))
    os.close(child.output)
    assert report.left == ["GPU 0 still holds 1 GiB"]


def test_leftovers_are_killed_by_identity(sleeper: subprocess.Popen[bytes]) -> None:
    real = processes.process_id(sleeper.pid)
    assert real is not None
    other = ProcessId(pid=real.pid, start_ticks=1, boot_id=real.boot_id)
    assert kill_leftovers([other]) == []
    assert sleeper.poll() is None
    assert kill_leftovers([real]) == []
    assert sleeper.wait() == -signal.SIGKILL
