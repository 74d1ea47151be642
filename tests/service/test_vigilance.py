"""What a supervisor sees by itself: dead parts, fatal words, hangs, stalls, memory failures."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import msgspec
import pytest
from msgspec import to_builtins

from launcher.documents.plan import Fallback, MemoryPrediction, Plan
from launcher.documents.service_state import ServiceState
from launcher.engine.failures.classify import signatures
from launcher.errors import QlaunchError
from launcher.linux import processes, procfs
from launcher.linux.processes import ProcessId
from launcher.paths import dirs
from launcher.service import control, store
from launcher.service.supervisor.fallback_steps import MEMORY_CLASSES
from tests.patience import HANG_S, PATIENCE_S
from tests.service.home import START_TIMEOUT_S, Home, eventually, status_of

OOM = {"CUDA out of memory": "gpu_oom_pool"}


def worker(state: ServiceState, name: str) -> ProcessId:
    assert state.engine is not None
    below = procfs.descendants([state.engine.pid], processes.all_processes())
    stats = [stat for pid in below if (stat := processes.read_stat(pid))]
    return next(
        processes.identity_of(stat) for stat in stats if stat.command.startswith(f"sglang::{name}")
    )


def refused(home: Home, plan: Plan) -> QlaunchError:
    with pytest.raises(QlaunchError) as caught:
        home.up(plan)
    return caught.value


@pytest.mark.parametrize("name", ["schedul", "detoken"])
def test_a_dead_part_of_a_serving_engine_is_seen_at_once_and_the_engine_started_again(
    home: Home, name: str
) -> None:
    home.options["timing"]["limb_s"] = 0.1
    first = home.up(home.plan("--workers", "--ignore-sigterm"))
    assert processes.send(worker(first, name), signal.SIGKILL)
    again = eventually(lambda: (s := control.status("svc")).state == "ready" and s.restarts and s)
    assert again.engine != first.engine
    events = (dirs().runs / first.run / "events.ndjson").read_text()
    assert '"limb_died"' in events
    assert (dirs().runs / first.run / "crash-1.log").exists()


def test_a_dead_part_of_a_starting_engine_is_a_failed_start(home: Home) -> None:
    home.options["timing"]["limb_s"] = 0.1
    call = home.up_beside(home.plan("--workers", "--never-listen"))
    state = home.wait_for("loading")
    where = store.folder("svc")
    eventually(lambda: len(store.read_tree(where)) >= 3)  # the supervisor has looked
    assert processes.send(worker(state, "schedul"), signal.SIGKILL)
    error = call.join().error
    assert isinstance(error, QlaunchError)
    assert (error.code, error.exit_code) == ("start_failed", 6)
    assert "the engine's scheduler" in error.message
    assert "while loading" in error.message
    assert status_of(error)["failure"]["failure_class"] == "child_failed"


def test_an_engine_that_cannot_bind_and_does_not_end_is_given_up(home: Home) -> None:
    home.options["timing"]["ailing_s"] = 0.2
    home.options["classes"] = {"[Errno 98]": "port_taken"}
    error = refused(home, home.plan("--errno-98"))
    assert (error.code, error.exit_code) == ("port_taken", 9)
    failure = status_of(error)["failure"]
    assert failure["failure_class"] == "port_taken"
    assert "[Errno 98]" in failure["evidence"][0]


@pytest.mark.parametrize(
    ("ailing_s", "pause_s"), [(1.0, 0.0), (2.0, 2.5)], ids=["written", "being-written"]
)
def test_a_scheduler_that_dies_of_an_exception_is_quoted_by_it(
    home: Home, ailing_s: float, pause_s: float
) -> None:
    """`… after saying: Scheduler hit an exception: Traceback (most recent call last):`, it said."""
    home.options["timing"]["ailing_s"] = ailing_s
    home.options["real_classes"] = True
    error = refused(home, home.plan("--scheduler-dies", str(pause_s)))
    assert (error.code, error.exit_code) == ("start_failed", 6)
    assert error.message == (
        "service 'svc': the engine did not end by itself after an exception while warming up: The"
        " engine may not read, write or run a file that it needs: PermissionError: [Errno 13]"
        " Permission denied: '/triton/ptxas'"
    )
    assert status_of(error)["failure"]["failure_class"] == "permission_denied"


def test_embeddings_that_hang_while_health_is_fine_restart_the_engine(
    home: Home, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    home.options["timing"] |= {"beat_s": 0.1, "health_timeout_s": 0.5}
    home.options["timing"]["hang_failures"] = 10  # time enough to be seen degraded
    first = home.up(home.plan("--hang-flag", str(flag)))
    flag.touch()
    degraded = home.wait_for("degraded")
    assert "/v1/embeddings: no answer within" in degraded.detail
    backoff = eventually(lambda: (s := control.status("svc")).restarts and s)
    assert backoff.failure is None or backoff.failure.failure_class == "wedged"
    flag.unlink()
    again = home.wait_for("ready")
    assert again.engine != first.engine
    phases = [phase.name for phase in again.phases]
    assert phases[phases.index("degraded") :][:2] == ["degraded", "backoff"]


def test_a_busy_engine_is_neither_degraded_nor_restarted(home: Home, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    # Time enough for an answer beside other work: before it is busy no look may fail.
    home.options["timing"] |= {"beat_s": 0.05, "health_timeout_s": 1.5, "hang_failures": 2}
    first = home.up(home.plan("--busy-flag", str(flag)))
    flag.touch()
    time.sleep(5.0)  # three looks at it, all of them failing; two would be a hang
    busy = control.status("svc")
    flag.unlink()
    time.sleep(0.5)
    after = control.status("svc")
    assert (busy.state, after.state) == ("ready", "ready")
    assert (after.engine, after.restarts) == (first.engine, 0)
    assert "degraded" not in [phase.name for phase in after.phases]


# Budgets -----------------------------------------------------------------------------------------


def test_a_start_past_its_budget_fails_once_nothing_happens_in_it(home: Home) -> None:
    home.options["timing"]["stalled_s"] = 0.4
    plan = home.plan("--never-listen", start_budget_s=0.3, start_budget_source="3 times the last")
    error = refused(home, plan)
    assert (error.code, error.exit_code) == ("timed_out", 8)
    assert "0.3 s (3 times the last), and nothing happens in it" in error.message
    limit = status_of(error)["start_limit"]
    assert limit == {"budget_s": 0.3, "limit_s": START_TIMEOUT_S, "source": "3 times the last"}


def test_a_start_past_its_budget_in_which_something_happens_goes_on(
    home: Home, tmp_path: Path
) -> None:
    home.options["timing"]["stalled_s"] = 0.5
    words = tmp_path / "words.py"
    words.write_text(
        "import runpy, sys, threading, time\n"
        "def talk():\n"
        "    while True:\n"
        "        print('Loading shards', flush=True)\n"
        "        time.sleep(0.1)\n"
        "threading.Thread(target=talk, daemon=True).start()\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    plan = home.plan("--slow-start", "1.5", start_budget_s=0.1)
    argv = (*plan.engine.argv[:2], str(words), *plan.engine.argv[2:])
    engine = msgspec.structs.replace(plan.engine, argv=argv)
    assert home.up(msgspec.structs.replace(plan, engine=engine)).state == "ready"


def test_without_a_record_the_limit_is_the_profiles(home: Home) -> None:
    limit = to_builtins(control.status_of(home.up(home.plan())))["start_limit"]
    assert limit["budget_s"] is None
    assert limit["limit_s"] == START_TIMEOUT_S
    assert "no earlier start" in limit["source"]


# Less memory -------------------------------------------------------------------------------------


def with_steps(plan: Plan, *sizes: int) -> Plan:
    steps = tuple(
        Fallback(
            flags={"max-total-tokens": size},
            argv=(*plan.engine.argv, "--max-total-tokens", str(size)),
            expectation=plan.expectation,
            predicted=MemoryPrediction(ram_bytes=size, gpu_bytes=None),
        )
        for size in sizes
    )
    return msgspec.structs.replace(plan, fallbacks=steps)


def test_a_memory_failure_takes_the_steps_until_one_fits(home: Home) -> None:
    home.options["classes"] = OOM
    plan = home.plan("--room-for", "5000", "--max-total-tokens", "16384")
    state = home.up(with_steps(plan, 8192, 4096, 2048))
    assert [step.flags for step in state.fallbacks] == [
        {"max-total-tokens": 8192},
        {"max-total-tokens": 4096},
    ]
    assert [(step.step, step.of) for step in state.fallbacks] == [(1, 3), (2, 3)]
    assert {step.after for step in state.fallbacks} == {"gpu_oom_pool"}
    assert state.engine_plan.argv[-2:] == ("--max-total-tokens", "4096")
    assert state.predicted is not None
    assert state.predicted.ram_bytes == 4096
    assert (state.failure, state.restarts) == (None, 0)
    record = json.loads((dirs().runs / state.run / "run.json").read_text())
    assert len(record["fallbacks"]) == 2
    assert record["plan"]["predicted"]["ram_bytes"] == 4096  # of the plan in force, not the first
    events = (dirs().runs / state.run / "events.ndjson").read_text()
    assert events.count('"fallback"') == 2


def test_when_no_step_fits_the_last_failure_stands(home: Home) -> None:
    home.options["classes"] = OOM
    plan = home.plan("--room-for", "100", "--max-total-tokens", "16384")
    error = refused(home, with_steps(plan, 8192, 4096))
    assert (error.code, error.exit_code) == ("start_failed", 6)
    data = status_of(error)
    assert data["failure"]["failure_class"] == "gpu_oom_pool"
    assert len(data["fallbacks"]) == 2


def test_what_is_no_memory_failure_takes_no_step(home: Home) -> None:
    home.options["classes"] = {"CUDA out of memory": "corrupted_checkpoint"}
    plan = home.plan("--room-for", "100", "--max-total-tokens", "16384")
    assert status_of(refused(home, with_steps(plan, 50)))["fallbacks"] == []


def test_down_between_two_steps_is_a_stop(home: Home) -> None:
    home.options["classes"] = OOM
    restart = msgspec.structs.replace(
        home.plan().restart, backoff_initial_s=HANG_S, backoff_max_s=HANG_S
    )
    plan = home.plan("--room-for", "100", "--max-total-tokens", "16384", restart=restart)
    call = home.up_beside(with_steps(plan, 50))
    assert "trying with --max-total-tokens 50 (step 1 of 1)" in home.wait_for("backoff").detail
    assert control.down("svc").seconds < PATIENCE_S
    error = call.join().error
    assert isinstance(error, QlaunchError)
    assert error.code == "stopped_meanwhile"


def test_the_memory_classes_are_classes() -> None:
    known = {signature.failure_class for signature in signatures().signatures}
    assert known | {signatures().oom_killed.failure_class} >= MEMORY_CLASSES


# Watching costs nothing --------------------------------------------------------------------------


def test_a_service_that_lost_its_parts_again_and_again_leaks_no_descriptor(home: Home) -> None:
    home.options["timing"]["limb_s"] = 0.02
    restart = msgspec.structs.replace(
        home.plan().restart, max_attempts=50, backoff_initial_s=0.01, backoff_max_s=0.01
    )
    state = home.up(home.plan("--workers", restart=restart))
    assert state.supervisor is not None
    fds = f"/proc/{state.supervisor.pid}/fd"
    before = len(os.listdir(fds))  # noqa: PTH208

    def ready_after(restarts: int) -> ServiceState:
        """A start takes a moment here: waiting for the states that it passes would be a race."""
        found = eventually(lambda: (s := home.wait_for("ready")).restarts == restarts and s)
        return cast("ServiceState", found)

    for restarts in range(3):
        assert processes.send(worker(ready_after(restarts), "schedul"), signal.SIGKILL)
    ready_after(3)
    # At any moment one or two more are open: it reads /proc, and asks the engine.
    eventually(lambda: len(os.listdir(fds)) <= before + 1)  # noqa: PTH208


def test_a_free_port_that_was_stolen_while_loading_is_another_one_then(home: Home) -> None:
    """`--port 0` ended with exit 9: nobody knows the port yet, so that any other will do."""
    call = home.up_beside(home.plan("--slow-start", "3", port=0))
    first = home.wait_for("loading").endpoint
    assert first is not None
    port = urlsplit(first).port
    assert port is not None
    with socket.create_server(("127.0.0.1", port)):
        done = call.join()
    assert done.error is None, done.error
    state = done.result
    assert (state.state, state.failure) == ("ready", None)
    assert urlsplit(state.endpoint).port != port


def test_a_port_stolen_while_loading_is_named(home: Home) -> None:
    """Between our check and the engine's bind: the stranger listens, and answers nothing."""
    plan = home.plan("--slow-start", "3")
    call = home.up_beside(plan)
    home.wait_for("loading")
    with socket.create_server(("127.0.0.1", plan.port)):
        error = call.join().error
    assert isinstance(error, QlaunchError)
    assert (error.code, error.exit_code) == ("port_taken", 9)
    assert f"process {os.getpid()}" in error.message
