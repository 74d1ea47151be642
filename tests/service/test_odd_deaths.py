"""Engines and supervisors that end, or stop moving, in ways that nobody plans for."""

from __future__ import annotations

import os
import shutil
import signal
import time

import msgspec
import pytest

from launcher.errors import QlaunchError
from launcher.linux import processes
from launcher.paths import dirs
from launcher.service import control
from tests.patience import PATIENCE_S, no_hang
from tests.service.home import Home, eventually, status_of


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (signal.SIGSEGV, "segfault"),
        (signal.SIGABRT, "aborted"),
        (signal.SIGBUS, "bus_error"),
        (signal.SIGILL, "illegal_instruction"),
        (signal.SIGTERM, "terminated"),
        (signal.SIGINT, "interrupted"),
        (signal.SIGQUIT, "child_failed"),
        (signal.SIGUSR1, None),
    ],
)
def test_a_start_ended_by_any_signal_has_its_class(
    home: Home, number: int, expected: str | None
) -> None:
    home.options["real_classes"] = True
    call = home.up_beside(home.plan("--never-listen", "--setsid-grandchild"))
    state = home.wait_for("loading")
    assert state.engine is not None
    assert processes.send(state.engine, number)
    error = call.join().error
    assert isinstance(error, QlaunchError)
    assert error.exit_code == 6
    failure = status_of(error)["failure"]
    if number == signal.SIGINT:  # Python says so itself
        assert failure["failure_class"] in {"interrupted", "exception"}
    else:
        assert failure["failure_class"] == expected
    assert failure["fix"]
    home.assert_nothing_left()


def test_a_frozen_engine_is_hung_and_started_again(home: Home) -> None:
    """SIGSTOP: alive, its port taken, silent; and deaf to SIGTERM until it goes on."""
    home.options["timing"] |= {"beat_s": 0.1, "health_timeout_s": 0.5}
    first = home.up(home.plan())
    assert first.engine is not None
    assert processes.send(first.engine, signal.SIGSTOP)
    again = eventually(lambda: (s := control.status("svc")).restarts and s)
    assert again.failure is None or again.failure.failure_class == "wedged"
    back = home.wait_for("ready")
    assert back.engine != first.engine
    assert not processes.is_alive(first.engine)


def test_down_ends_a_frozen_engine_in_bounded_time(home: Home) -> None:
    home.options["patience"]["grace_s"] = 0.5
    state = home.up(home.plan("--workers"))
    assert state.engine is not None
    assert processes.send(state.engine, signal.SIGSTOP)
    done = control.down("svc")
    assert done.left == ()
    assert done.seconds < PATIENCE_S
    assert not processes.is_alive(state.engine)


def test_a_frozen_supervisor_does_not_make_down_wait_for_ever(home: Home) -> None:
    state = home.up(home.plan("--workers"))
    assert state.supervisor is not None
    assert processes.send(state.supervisor, signal.SIGSTOP)
    with no_hang():
        done = control.down("svc", timeout=1.0)
    assert done.left == ()
    assert not processes.is_alive(state.engine)
    assert not processes.is_alive(state.supervisor)


def test_a_program_that_vanished_before_a_restart_is_a_failure_with_its_name(home: Home) -> None:
    """As after `engine remove`, or an upgrade, under a running service."""
    program = home.root / "python"
    program.symlink_to(os.path.realpath("/proc/self/exe"))
    plan = home.plan()
    engine = plan.engine
    engine = msgspec.structs.replace(engine, argv=(str(program), *engine.argv[1:]))
    state = home.up(msgspec.structs.replace(plan, engine=engine))
    program.unlink()
    assert state.engine is not None
    assert processes.send(state.engine, signal.SIGKILL)
    failed = home.wait_for("failed")
    assert failed.failure is not None
    assert str(program) in failed.failure.message
    assert failed.failure.failure_class == "engine_missing"


def test_a_run_record_removed_under_a_running_service_does_not_end_it(home: Home) -> None:
    state = home.up(home.plan())
    shutil.rmtree(dirs().runs / state.run)
    time.sleep(0.5)
    assert control.status("svc").state == "ready"
    assert state.engine is not None
    assert processes.send(state.engine, signal.SIGKILL)
    eventually(lambda: control.status("svc").restarts == 1)
    assert home.wait_for("ready", "failed").failure is None  # it was "install the engine again"
    assert control.down("svc").left == ()
