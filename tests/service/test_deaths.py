"""Every process of a service killed in every phase: the right state, and nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from launcher.config.profile import Restart
from launcher.documents.service_state import ServiceState
from launcher.errors import QlaunchError
from launcher.linux import processes
from launcher.linux.processes import ProcessId
from launcher.paths import dirs
from launcher.service import control, store
from tests.patience import HANG_S, PATIENCE_S
from tests.service.home import Home, eventually, status_of

PHASES = {
    "loading": ["--never-listen"],
    "warming": ["--never-ready"],
    "verifying": ["--health-lies"],
}
"""How to keep the fake engine in a phase of its start."""


def kill(process: ProcessId | None) -> None:
    assert process is not None
    assert processes.send(process, signal.SIGKILL)


@pytest.mark.parametrize("phase", PHASES)
def test_an_engine_killed_while_starting_is_a_failure_at_once(home: Home, phase: str) -> None:
    call = home.up_beside(home.plan(*PHASES[phase], "--fork-grandchild", "--setsid-grandchild"))
    kill(home.wait_for(phase).engine)
    error = call.join().error
    assert isinstance(error, QlaunchError)
    assert (error.code, error.exit_code) == ("start_failed", 6)
    assert "signal 9 (SIGKILL)" in error.message
    assert status_of(error)["state"] == "failed"
    home.assert_nothing_left()


def test_an_engine_killed_when_ready_is_started_again_and_verified_again(home: Home) -> None:
    first = home.up(home.plan("--setsid-grandchild"))
    kill(first.engine)
    eventually(lambda: control.status("svc").restarts == 1)
    again = home.wait_for("ready")
    assert again.engine != first.engine
    assert again.failure is None
    names = [phase.name for phase in again.phases]
    assert names[-7:-5] == ["ready", "backoff"]
    assert names[-2:] == ["verifying", "ready"]
    assert again.timings == first.timings  # of the start that the user waited for
    run = dirs().runs / again.run
    assert (run / "crash-1.log").exists()


def test_an_engine_killed_while_stopping_is_a_stop(home: Home) -> None:
    home.up(home.plan("--drain", "60"))
    process = home.state()
    assert process is not None
    assert process.supervisor is not None
    processes.send(process.supervisor, signal.SIGTERM)
    kill(home.wait_for("stopping").engine)
    assert home.wait_for("stopped").failure is None


@pytest.mark.parametrize("phase", [*PHASES, "ready"])
def test_a_killed_supervisor_takes_its_engine_with_it(home: Home, phase: str) -> None:
    """SGLang's front dies by PR_SET_PDEATHSIG; what left the session is found by what we noted."""
    switches = PHASES.get(phase, [])
    call = home.up_beside(home.plan(*switches, "--setsid-grandchild"))
    state = home.wait_for(phase)
    kill(state.supervisor)
    if phase == "ready":
        eventually(lambda: not processes.is_alive(state.supervisor))
        found = control.status("svc")
    else:
        error = call.join().error
        assert isinstance(error, QlaunchError)
        assert error.code == "supervisor_killed"
        found = control.status("svc")
    assert found.state == "failed"
    assert found.failure is not None
    assert found.failure.code == "supervisor_killed"
    home.assert_nothing_left()
    run = json.loads((dirs().runs / found.run / "run.json").read_text())
    assert run["outcome"] == "failed"


def test_a_supervisor_killed_while_stopping_or_waiting_leaves_nothing(home: Home) -> None:
    home.up(home.plan("--drain", "60"))
    state = control.status("svc")
    assert state.supervisor is not None
    processes.send(state.supervisor, signal.SIGTERM)
    kill(home.wait_for("stopping").supervisor)
    assert eventually(lambda: control.status("svc").state == "failed")
    home.assert_nothing_left()
    slow = Restart(max_attempts=5, backoff_initial_s=30, backoff_max_s=30)
    home.up(home.plan("--die-after", "0.3", restart=slow))
    kill(home.wait_for("backoff").supervisor)
    assert eventually(lambda: control.status("svc").state == "failed")


def test_up_after_a_killed_supervisor_starts_one_new_engine(home: Home) -> None:
    plan = home.plan("--setsid-grandchild")
    first = home.up(plan)
    kill(first.supervisor)
    eventually(lambda: not processes.is_alive(first.supervisor))
    second = home.up(plan)
    assert second.state == "ready"
    assert second.engine != first.engine
    assert not processes.is_alive(first.engine)


def test_an_engine_that_ignores_sigterm_is_killed_in_bounded_time_and_it_is_said(
    home: Home,
) -> None:
    home.options["patience"]["grace_s"] = 0.5
    home.up(home.plan("--ignore-sigterm", "--fork-grandchild"))
    result = control.down("svc")
    assert result.seconds < PATIENCE_S
    assert result.left == ()
    assert result.state is not None
    assert result.state.state == "stopped"
    assert "ignored SIGTERM for 0.5 s" in result.state.detail
    assert "SIGKILL was sent" in result.state.detail


def test_grandchildren_are_ended_wherever_they_went(home: Home) -> None:
    home.up(home.plan("--fork-grandchild", "--setsid-grandchild", "--hold-pipe"))
    assert len(home.processes()) >= 4  # supervisor, engine, two grandchildren
    result = control.down("svc")
    assert result.left == ()
    assert result.seconds < PATIENCE_S
    home.assert_nothing_left()


def test_an_engine_that_dies_leaving_a_grandchild_with_the_pipe_does_not_hang_the_log(
    home: Home,
) -> None:
    with pytest.raises(QlaunchError) as caught:
        home.up(home.plan("--setsid-grandchild", "--hold-pipe", "--exit-code", "4"))
    assert "exit code 4" in caught.value.message
    home.assert_nothing_left()


def test_exit_0_before_ready_is_a_failure(home: Home) -> None:
    with pytest.raises(QlaunchError) as caught:
        home.up(home.plan("--exit-code", "0"))
    assert (caught.value.code, caught.value.exit_code) == ("start_failed", 6)
    assert "exit code 0 while loading" in caught.value.message


def test_a_crash_loop_ends_in_failed_and_says_how_often(home: Home) -> None:
    home.up(home.plan("--die-after", "0.3"))
    state = home.wait_for("failed")
    assert state.failure is not None
    assert state.failure.code == "crash_loop"
    assert "after 2 restarts" in state.failure.message
    assert "exit code 3" in state.failure.message
    assert state.restarts == 2


def test_without_restarts_the_first_death_is_the_end(home: Home) -> None:
    home.up(home.plan("--die-after", "0.3", restart=Restart(max_attempts=0)))
    state = home.wait_for("failed")
    assert state.failure is not None
    assert state.failure.code == "engine_died"
    assert state.restarts == 0


def test_a_stable_stretch_gives_the_budget_back(home: Home) -> None:
    restart = Restart(
        max_attempts=1, backoff_initial_s=0.05, backoff_max_s=0.05, stable_after_s=0.1
    )
    home.up(home.plan("--die-after", "0.4", restart=restart))
    eventually(lambda: control.status("svc").restarts >= 2)
    assert control.down("svc").was_running


def test_down_during_a_long_backoff_returns_at_once(home: Home) -> None:
    slow = Restart(max_attempts=5, backoff_initial_s=HANG_S, backoff_max_s=HANG_S)
    home.up(home.plan("--die-after", "0.3", restart=slow))
    waiting = home.wait_for("backoff")
    assert "starting again in" in waiting.detail
    result = control.down("svc")
    assert result.seconds < PATIENCE_S
    assert result.state is not None
    assert result.state.state == "stopped"


def test_the_engine_is_no_zombie_after_its_death(home: Home) -> None:
    state = home.up(home.plan(restart=Restart(max_attempts=5, backoff_initial_s=60)))
    kill(state.engine)
    home.wait_for("backoff")
    assert state.engine is not None
    eventually(lambda: processes.read_stat(state.engine.pid) is None if state.engine else True)


@pytest.mark.parametrize("phase", PHASES)
def test_ctrl_c_during_up_stops_what_it_started(home: Home, phase: str) -> None:
    starter = home.starter(home.plan(*PHASES[phase]))
    home.wait_for(phase)
    starter.send_signal(signal.SIGINT)
    out, _ = starter.communicate(timeout=PATIENCE_S)
    assert starter.returncode == 130, out
    assert control.status("svc").state == "stopped"
    home.assert_nothing_left()


def test_a_second_ctrl_c_does_not_wait_for_the_engine_to_drain(home: Home) -> None:
    home.options["patience"]["grace_s"] = HANG_S
    starter = home.starter(home.plan("--never-ready", "--ignore-sigterm"))
    home.wait_for("warming")
    starter.send_signal(signal.SIGINT)
    home.wait_for("stopping")
    starter.send_signal(signal.SIGINT)
    out, _ = starter.communicate(timeout=PATIENCE_S)  # well before the grace is over
    assert starter.returncode == 130, out
    assert "killed on request" in control.status("svc").detail


def test_a_pid_that_was_reused_is_never_signalled(home: Home) -> None:
    """The state of a dead supervisor names PIDs that now belong to somebody else."""
    bystander = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    try:
        home.up(home.plan())
        state = control.down("svc").state
        assert state is not None
        real = processes.process_id(bystander.pid)
        assert real is not None
        forged = [
            ProcessId(pid=bystander.pid, start_ticks=real.start_ticks - 1, boot_id=real.boot_id),
            ProcessId(pid=bystander.pid, start_ticks=real.start_ticks, boot_id="another boot"),
            *(
                ProcessId(pid=pid, start_ticks=0, boot_id=real.boot_id)
                for pid in (0, 1, -1, -bystander.pid, 2**40, os.getpid(), os.getppid())
            ),
        ]
        where = store.folder("svc")
        for process in forged:
            left = ServiceState(
                **{
                    **{name: getattr(state, name) for name in state.__struct_fields__},
                    "state": "ready",
                    "supervisor": process,
                    "engine": process,
                }
            )
            store.write_state(where, left)
            store.write_tree(where, [process])
            assert control.status("svc").state == "failed"
            assert control.down("svc").left == ()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
