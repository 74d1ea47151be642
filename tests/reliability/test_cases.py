"""Cases of cases.yaml that no other test tries, and the table itself."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from launcher.errors import QlaunchError
from launcher.hardware.nvml import Nvml
from launcher.linux import processes
from launcher.paths import dirs
from launcher.service import control, store
from launcher.service.process_tree import spawn
from launcher.service.supervisor import run_recorder
from launcher.service.supervisor.run_recorder import RunRecorder
from tests.reliability import plugin, table
from tests.service.home import Home, eventually

ROOT = Path(__file__).parents[2]


def defined(path: Path) -> Iterator[str]:
    """Tests that a file defines, `Class::test` for methods."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            yield from (
                f"{node.name}::{each.name}"
                for each in node.body
                if isinstance(each, ast.FunctionDef)
            )
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield f"{node.targets[0].id}::runTest"


def test_every_case_names_tests_that_exist() -> None:
    numbers = [case["case"] for case in plugin.cases()]
    assert numbers == list(range(1, len(numbers) + 1))
    for case in plugin.cases():
        assert ("tests" in case) != ("after" in case), case["case"]
        assert "after" in case or case["expect"]
    for test in plugin.by_test():
        file, _, name = test.partition("::")
        assert name in set(defined(ROOT / "tests" / f"{file}.py")), test


def test_the_table_counts_what_ran_and_hides_no_failure() -> None:
    first = plugin.cases()[2]
    ran = {test: ["passed"] for test in first["tests"]}
    assert table.row(first, ran)[0] == "survived"
    assert table.row(first, {**ran, first["tests"][0]: ["passed", "failed"]})[0] == "failed"
    assert table.row(first, {})[0] == "not run"
    page = table.document(ran, [])
    assert "1 tried, 1 survived, 0 failed" in page


def test_case_03_a_storm_of_signals_while_starting(home: Home) -> None:
    call = home.up_beside(home.plan("--never-ready", "--drain", "0.3"))
    state = home.wait_for("warming")
    assert state.supervisor is not None
    for _ in range(20):
        processes.send(state.supervisor, signal.SIGTERM)
        time.sleep(0.005)
    error = call.join().error
    assert isinstance(error, QlaunchError)
    assert (error.code, error.exit_code) == ("stopped_meanwhile", 9)
    stopped = control.status("svc")
    assert stopped.state == "stopped"
    assert [phase.name for phase in stopped.phases].count("stopping") == 1


def test_case_13_health_that_flaps_while_warming(home: Home) -> None:
    """Refused, then 503, then 200."""
    state = home.up(home.plan("--slow-start", "0.3", "--warm-up", "0.4"))
    names = [phase.name for phase in state.phases]
    assert names == ["starting", "loading", "warming", "verifying", "ready"]


WALL_CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today"}


def test_case_16_no_deadline_reads_the_time_of_day() -> None:
    """A clock that jumps moves no deadline: the time of day is asked for stamps and ids alone."""
    found = {
        (path.name, ast.unparse(node))
        for path in (ROOT / "launcher" / "service").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in WALL_CLOCKS
    }
    assert found == {("run_recorder.py", "datetime.now")}


class _Gpu(Nvml):
    """NVML with one process on its card."""

    def __init__(self, pids: dict[int, int | None]) -> None:
        self.pids = pids

    def process_memory(self) -> dict[int, int | None]:
        return self.pids


def test_case_18_gpu_memory_that_is_not_given_back_is_named(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_recorder, "foreign_pid_namespace", lambda proc: False)
    recorder = RunRecorder(home.plan(), time.monotonic())
    try:
        assert recorder.gpu_held({4711}) is None
        recorder._nvml = _Gpu({4711: 2**30, 12: None, os.getpid(): 2**20})
        assert recorder.gpu_held({4711, 99}) == "GPU memory is still held by process 4711"
        assert recorder.gpu_held({99}) is None
        others = recorder.gpu_others({4711})
        assert (
            others[0] == "process 12 (not of this container) also uses the GPU" or "(" in others[0]
        )
        assert any(f"process {os.getpid()} (" in line and "1 MB" in line for line in others)
        monkeypatch.setattr(run_recorder, "foreign_pid_namespace", lambda proc: True)
        assert recorder.gpu_held({4711}) is None
    finally:
        recorder.close()


WRITER = """
import sys
from pathlib import Path
from launcher.linux.files import write_atomic
path = Path(sys.argv[1])
for number in range(10**9):
    write_atomic(path, (b"%09d" % number) * 20_000)
"""


def test_case_21_a_writer_killed_at_any_moment_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for pause in (0.0, 0.003, 0.007, 0.011, 0.02):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], env=env)
        try:
            path.unlink(missing_ok=True)
            eventually(path.exists)
            time.sleep(pause)
        finally:
            writer.kill()
            writer.wait()
        data = path.read_bytes()
        assert len(data) == 180_000
        assert data == data[:9] * 20_000


def limited(home: Home, limit: str, value: int) -> tuple[str, ...]:
    """The supervisor's program with a limit of the kernel's set before it begins."""
    code = (
        "import os, resource, sys\n"
        f"resource.setrlimit(resource.{limit}, ({value}, {value}))\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    return (sys.executable, "-c", code, *home.entry)


def test_case_22_a_full_disk_does_not_stop_a_running_service(home: Home) -> None:
    """No file may grow beyond 64 kB here, which fails as a full disk does."""
    plan = home.plan("--flood", "1")
    state = control.launch(plan, entry=limited(home, "RLIMIT_FSIZE", 64 * 1024))
    assert state.state == "ready"
    log = dirs().runs / state.run / "engine.log"
    assert log.stat().st_size <= 64 * 1024
    assert control.down("svc").left == ()


def test_case_23_without_descriptors_the_start_fails_in_a_sentence(home: Home) -> None:
    plan = home.plan()
    for allowed in (6, 9, 12):
        with pytest.raises(QlaunchError) as caught:
            control.launch(plan, entry=limited(home, "RLIMIT_NOFILE", allowed))
        assert "Traceback" not in caught.value.message
        home.assert_nothing_left()
    assert "too many" in caught.value.message.lower() or caught.value.code != "unexpected"


def test_case_25_a_state_folder_of_someone_else_is_refused(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.folder("svc", create=True)
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    with pytest.raises(QlaunchError) as caught:
        home.up(home.plan())
    assert (caught.value.code, caught.value.exit_code) == ("state_dir_unsafe", 1)
    assert f"belongs to user {mine}" in caught.value.message


STRANGE = [
    "--x",
    "-",
    "$(touch pwned)",
    "; touch pwned",
    "a b\tc",
    "line\nbreak",
    "`id`",
    "*",
    "é✓",
]


def test_case_28_arguments_arrive_as_they_are(home: Home, tmp_path: Path) -> None:
    code = "import sys, time; print('ready', flush=True); time.sleep(60)"
    argv = [sys.executable, "-S", "-c", code, *STRANGE]
    child = spawn(argv, dict(os.environ), cwd=tmp_path)
    try:
        line = Path(f"/proc/{child.process.pid}/cmdline")
        # Empty for a moment: the kernel sets the arguments after it has closed the pipe of exec.
        words = eventually(line.read_bytes).decode().split("\0")
        assert words[4:-1] == STRANGE
        assert list(tmp_path.glob("pwned")) == []
    finally:
        processes.send(child.process, signal.SIGKILL)
        assert child.handle is not None
        child.handle.wait()
        os.close(child.output)


def test_a_plan_with_strange_words_reaches_the_engine_whole(home: Home) -> None:
    plan = home.plan()
    strange = msgspec.structs.replace(plan.engine, env={**plan.engine.env, "SGLANG_X": "a\nb $(x)"})
    state = home.up(msgspec.structs.replace(plan, engine=strange))
    assert state.engine is not None
    environment = Path(f"/proc/{state.engine.pid}/environ").read_bytes().split(b"\0")
    assert b"SGLANG_X=a\nb $(x)" in environment
