"""The sampler on real processes, and on trees that stand in for /proc."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from launcher.documents.run import Sample
from launcher.hardware.nvml import Unavailable
from launcher.linux import procfs
from launcher.record.sampler import MAX_PROCESSES, Sampler, pause_s
from tests.nvml.machines import Card, machine, uuid
from tests.patience import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
NO_GPU = Unavailable("no NVIDIA driver")

FAMILY = """
import os, subprocess, sys, time
block = bytearray(30 << 20)
for at in range(0, len(block), 4096):
    block[at] = 1
names = ["sglang::scheduler_TP0", "sglang::detokenizer", "helper"]
for name in names:
    subprocess.Popen([name, "60"], executable="/bin/sleep")
print("ready", flush=True)
time.sleep(60)
"""


@contextmanager
def running(code: str, *, new_session: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    """A Python child that has printed its first line; its whole session is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=new_session
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline()
        yield process
    finally:
        if new_session:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        process.stdout.close()


class TestRealProcesses:
    def test_a_tree_is_read_by_role_with_pss(self) -> None:
        with running(FAMILY) as leader:
            wait_for(lambda: len(psutil.Process(leader.pid).children()) == 3)
            sample = Sampler(leader.pid, nvml=NO_GPU).sample()
            expected = psutil.Process(leader.pid).memory_full_info().pss
        roles = [process.role for process in sample.processes]
        assert sorted(roles) == ["detokenizer", "front", "other", "scheduler"]
        assert (sample.ram_method, sample.ram_reason) == ("pss", None)
        assert sample.ram_bytes == sum(process.ram_bytes or 0 for process in sample.processes)
        front = next(process for process in sample.processes if process.role == "front")
        assert front.ram_bytes is not None
        assert front.ram_bytes > 30 * MIB
        assert abs(front.ram_bytes - expected) < 2 * MIB
        assert (sample.gpu_bytes, sample.gpu_method) == (None, "unavailable")
        assert sample.gpu_reason == "no NVIDIA driver"

    def test_a_title_set_late_is_noticed(self) -> None:
        code = (
            "import signal, time\n"
            "def rename(*_):\n"
            "    with open('/proc/self/comm', 'w') as file: file.write('sglang::scheduler_TP0')\n"
            "    print(2, flush=True)\n"
            "signal.signal(signal.SIGUSR1, rename)\n"
            "print(1, flush=True)\n"
            "while True: time.sleep(0.05)"  # a signal just before a sleep is acted on after it
        )
        with running(code) as leader:
            sampler = Sampler(os.getpid(), nvml=NO_GPU, extra_pids=lambda: [leader.pid])
            before = {p.pid: p.role for p in sampler.sample().processes}
            leader.send_signal(signal.SIGUSR1)
            assert leader.stdout is not None
            assert leader.stdout.readline()
            after = {p.pid: p.role for p in sampler.sample().processes}
        assert (before[leader.pid], after[leader.pid]) == ("other", "scheduler")
        assert after[os.getpid()] == "front"

    def test_cpu_is_the_share_of_a_core_since_the_last_sample(self) -> None:
        spin = "print(1, flush=True)\nwhile True: pass"
        with running(spin) as leader:
            sampler = Sampler(leader.pid, nvml=NO_GPU)

            def used() -> float:
                times = psutil.Process(leader.pid).cpu_times()
                return 100 * float(times.user + times.system)

            before = used()
            first = sampler.sample()
            after_first = used()
            time.sleep(0.4)
            before_second = used()
            second = sampler.sample()
            after = used()
        assert first.cpu_percent is None
        assert second.cpu_percent is not None
        between = second.t_s - first.t_s
        # Each figure is in steps of 10 ms, and the machine may do other things between two lines.
        least, most = (before_second - after_first) / between, (after - before) / between
        assert least - 10 <= second.cpu_percent <= most + 10
        assert second.processes[0].cpu_percent == second.cpu_percent
        assert second.t_s > first.t_s

    def test_a_child_whose_parent_died_is_found_by_its_session(self) -> None:
        code = (
            "import os, time\n"
            "if os.fork() == 0:\n"
            "    if os.fork(): os._exit(0)\n"
            "    time.sleep(60)\n"
            "os.wait(); print(1, flush=True); time.sleep(60)"
        )
        with running(code) as leader:
            sample = Sampler(leader.pid, nvml=NO_GPU).sample()
        assert [process.role for process in sample.processes] == ["front", "other"]

    def test_zombies_have_no_memory_and_are_left_out(self) -> None:
        code = (
            "import os, time\n"
            "pid = os.fork()\n"
            "if pid == 0: os._exit(0)\n"
            "os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)\n"
            "print(1, flush=True); time.sleep(60)"
        )
        with running(code) as leader:
            sample = Sampler(leader.pid, nvml=NO_GPU).sample()
        assert [process.pid for process in sample.processes] == [leader.pid]
        assert sample.ram_method == "pss"

    def test_a_tree_that_is_gone_has_no_figures(self) -> None:
        with running("print(1, flush=True); import time; time.sleep(60)") as leader:
            sampler = Sampler(leader.pid, nvml=NO_GPU)
            assert sampler.sample().ram_bytes
        sample = sampler.sample()
        assert (sample.ram_bytes, sample.ram_method, sample.cpu_percent) == (
            None,
            "unavailable",
            None,
        )
        assert sample.ram_reason == "no process of the engine is left"
        assert sample.processes == ()

    def test_processes_that_come_and_go_do_no_harm(self) -> None:
        code = (
            "import subprocess\n"
            "print(1, flush=True)\n"
            "while True:\n"
            "    for p in [subprocess.Popen(['/bin/true']) for _ in range(5)]: p.wait()"
        )
        with running(code) as leader:
            sampler = Sampler(leader.pid, nvml=NO_GPU)
            samples: list[Sample] = []

            def some_came() -> bool:
                """Beside other work the leader may not have had a turn in 60 samples."""
                samples.extend(sampler.sample() for _ in range(60))
                return len({process.pid for each in samples for process in each.processes}) > 1

            wait_for(some_came)
        assert all(sample.ram_method == "pss" for sample in samples)

    def test_a_reused_leader_id_is_not_taken_for_the_leader(self) -> None:
        with running("print(1, flush=True); import time; time.sleep(60)") as leader:
            sampler = Sampler(leader.pid, nvml=NO_GPU)
            assert sampler._born is not None
            sampler._born = sampler._born._replace(start_ticks=1)
            assert sampler.sample().processes == ()

    def test_it_tells_what_a_sample_cost(self) -> None:
        sampler = Sampler(os.getpid(), nvml=NO_GPU)
        sampler.sample()
        assert 0 < sampler.cost_s < 5

    def test_a_process_that_only_samples_is_light(self) -> None:
        code = (
            "import json, os, sys, pathlib, tempfile\n"
            "from launcher.hardware.nvml import open_nvml\n"
            "from launcher.record.runs import RunWriter\n"
            "from launcher.record.sampler import Sampler\n"
            "writer = RunWriter(pathlib.Path(tempfile.mkdtemp()) / 'run')\n"
            "sampler = Sampler(os.getpid(), nvml=open_nvml())\n"
            "for _ in range(50): writer.sample(sampler.sample())\n"
            "heavy = [m for m in ('psutil', 'pynvml', 'requests', 'rich', 'yaml')\n"
            "         if m in sys.modules]\n"
            "status = pathlib.Path('/proc/self/status').read_text()\n"
            "peak = int(status.split('VmHWM:')[1].split()[0])\n"
            "print(json.dumps([heavy, peak, writer.problem]))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=True, timeout=PATIENCE_S
        )
        heavy, peak_kib, problem = json.loads(done.stdout)
        assert heavy in ([], ["pynvml"])  # pynvml only where there is a driver
        assert problem is None
        assert peak_kib < 40 * 1024


def wait_for(condition: object, seconds: float = PATIENCE_S) -> None:
    """Wait until `condition()` is true."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        time.sleep(0.01)


def process(  # one process of a stand-in /proc
    proc: Path,
    pid: int,
    *,
    parent: int = 1,
    session: int = 1,
    name: str = "python",
    state: str = "S",
    pss_kib: int | None = 1000,
    rss_pages: int | None = 500,
    ticks: int = 100,
    start: int = 77,
    arguments: str = "python",
) -> None:
    folder = proc / str(pid)
    folder.mkdir(parents=True, exist_ok=True)
    fields = [state, parent, session, session, *[0] * 7, ticks, 0, *[0] * 6, start, *[0] * 30]
    (folder / "stat").write_text(f"{pid} ({name}) " + " ".join(map(str, fields)) + "\n")
    (folder / "cmdline").write_bytes(arguments.encode() + b"\0-x\0")
    if pss_kib is not None:
        text = f"00-ff ---p [rollup]\nRss:  9999 kB\nPss:   {pss_kib} kB\nPss_Dirty: 1 kB\n"
        (folder / "smaps_rollup").write_text(text)
    if rss_pages is not None:
        (folder / "statm").write_text(f"9000 {rss_pages} 20 1 0 300 0\n")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc of the host's own namespace with the leader 10."""
    root = tmp_path / "proc"
    (root / "self/ns").mkdir(parents=True)
    (root / "self/ns/pid").symlink_to("pid:[4026531836]")
    (root / "meminfo").write_text("")
    process(root, 10, session=10)
    return root


class TestStandInProc:
    def test_the_tree_is_leader_descendants_session_and_extras(self, proc: Path) -> None:
        process(proc, 11, parent=10, session=99)
        process(proc, 12, parent=11, session=99)
        process(proc, 13, parent=1, session=10)
        process(proc, 14, parent=13, session=98)
        process(proc, 20, parent=1, session=20)
        process(proc, 21, parent=20, session=20)
        process(proc, 30, parent=1, session=30)
        assert [s.pid for s in procfs.tree(str(proc), 10)] == [10, 11, 12, 13, 14]
        assert [s.pid for s in procfs.tree(str(proc), 10, [20, 404])] == [
            *range(10, 15),
            20,
            21,
        ]

    def test_a_loop_of_parents_ends(self, proc: Path) -> None:
        process(proc, 11, parent=12)
        process(proc, 12, parent=11)
        assert [s.pid for s in procfs.tree(str(proc), 11)] == [11, 12]

    @pytest.mark.parametrize("name", ["a) S 1 (b", "with blank", ")))", "", "ü"])
    def test_any_process_name_is_read(self, proc: Path, name: str) -> None:
        process(proc, 11, parent=10, name=name, ticks=321)
        stat = procfs.read_stat(str(proc), 11)
        assert stat is not None
        assert (stat.parent, stat.cpu_ticks, stat.start_ticks) == (10, 321, 77)

    @pytest.mark.parametrize(
        "text", ["", "11", "11 (x)", "11 (x) S 1 2", "(", "11 (x) S" + " ?" * 40]
    )
    def test_a_torn_stat_is_no_process(self, proc: Path, text: str) -> None:
        (proc / "11").mkdir()
        (proc / "11/stat").write_text(text)
        assert procfs.read_stat(str(proc), 11) is None

    def test_without_smaps_rollup_the_method_is_rss_and_says_so(self, proc: Path) -> None:
        process(proc, 11, parent=10, pss_kib=None, rss_pages=100)
        sample = Sampler(10, nvml=NO_GPU, proc=proc).sample()
        assert sample.ram_method == "rss"
        assert sample.ram_bytes == 1000 * 1024 + 100 * procfs.PAGE
        assert sample.ram_reason == "smaps_rollup of a process cannot be read"

    def test_without_any_figure_the_method_is_unavailable_never_zero(self, proc: Path) -> None:
        process(proc, 11, parent=10, pss_kib=None, rss_pages=None)
        sample = Sampler(10, nvml=NO_GPU, proc=proc).sample()
        assert (sample.ram_bytes, sample.ram_method) == (None, "unavailable")
        assert sample.ram_reason == "the memory of a process of the engine cannot be read"
        assert [row.ram_bytes for row in sample.processes] == [1000 * 1024, None]

    def test_a_process_that_is_just_ending_is_left_out(self, proc: Path) -> None:
        process(proc, 11, parent=10, pss_kib=None, rss_pages=0)
        sample = Sampler(10, nvml=NO_GPU, proc=proc).sample()
        assert (sample.ram_method, len(sample.processes)) == ("pss", 1)

    @pytest.mark.parametrize(
        ("arguments", "name", "role"),
        [
            ("sglang::scheduler", "python", "scheduler"),
            ("sglang::scheduler_DP1_TP0", "python", "scheduler"),
            ("sglang::detokenizer", "python", "detokenizer"),
            ("", "sglang::schedul", "scheduler"),
            ("", "sglang::detoken", "detokenizer"),
            ("sglang::data_parallel_controller", "sglang::data_pa", "other"),
            ("/usr/bin/python3", "python3", "other"),
        ],
    )
    def test_roles_come_from_titles(self, proc: Path, arguments: str, name: str, role: str) -> None:
        process(proc, 11, parent=10, arguments=arguments, name=name)
        sample = Sampler(10, nvml=NO_GPU, proc=proc).sample()
        assert [row.role for row in sample.processes] == ["front", role]

    def test_cpu_of_a_reused_id_starts_anew(self, proc: Path) -> None:
        now = iter([0.0, 1.0, 2.0, 3.0])
        process(proc, 11, parent=10, ticks=100)
        sampler = Sampler(10, nvml=NO_GPU, proc=proc, clock=lambda: next(now))
        sampler.sample()
        process(proc, 11, parent=10, ticks=150)
        assert sampler.sample().processes[1].cpu_percent == 100 * 50 / procfs.TICKS_PER_S
        process(proc, 11, parent=10, ticks=500, start=78)
        assert sampler.sample().processes[1].cpu_percent is None

    def test_a_huge_tree_counts_in_full_and_names_the_largest(self, proc: Path) -> None:
        for pid in range(100, 300):
            process(proc, pid, parent=10, pss_kib=pid)
        sample = Sampler(10, nvml=NO_GPU, proc=proc).sample()
        assert sample.ram_bytes == (1000 + sum(range(100, 300))) * 1024
        assert len(sample.processes) == MAX_PROCESSES
        assert {row.pid for row in sample.processes} == {10, *range(300 - 63, 300)}

    def test_an_unreadable_proc_is_an_empty_tree(self, tmp_path: Path) -> None:
        sample = Sampler(10, nvml=NO_GPU, proc=tmp_path / "absent").sample()
        assert (sample.ram_bytes, sample.processes) == (None, ())


class FakeGpu:
    """A GpuReader that answers what it is told."""

    def __init__(self) -> None:
        self.processes: dict[int, int | None] | Unavailable = {}
        self.used: dict[str, int] | Unavailable = {"GPU-a": 500}
        self.spent_s = 0.0

    def process_memory(self) -> dict[int, int | None] | Unavailable:
        self.spent_s += 0.5
        return self.processes

    def device_used(self) -> dict[str, int] | Unavailable:
        return self.used if isinstance(self.used, Unavailable) else dict(self.used)


class TestGpuMemory:
    def test_by_process_where_nvml_knows_the_processes(self, proc: Path) -> None:
        process(proc, 11, parent=10)
        gpu = FakeGpu()
        sampler = Sampler(10, nvml=gpu, proc=proc)
        gpu.processes = {10: 100, 11: 30, 999: 5000}
        sample = sampler.sample()
        assert (sample.gpu_bytes, sample.gpu_method, sample.gpu_reason) == (
            130,
            "per_process",
            None,
        )
        assert [row.gpu_bytes for row in sample.processes] == [100, 30]
        assert sampler.cost_s >= 0.5  # NVML's own time counts

    def test_by_difference_where_it_does_not(self, proc: Path) -> None:
        gpu = FakeGpu()
        sampler = Sampler(10, nvml=gpu, proc=proc)
        gpu.processes, gpu.used = {999: 5000}, {"GPU-a": 2500}
        sample = sampler.sample()
        assert (sample.gpu_bytes, sample.gpu_method) == (2000, "device_delta")
        assert sample.gpu_reason == "NVML lists no process of the engine"
        assert sample.processes[0].gpu_bytes is None

    def test_memory_that_others_let_go_lowers_the_baseline(self, proc: Path) -> None:
        gpu = FakeGpu()
        sampler = Sampler(10, nvml=gpu, proc=proc)
        gpu.used = {"GPU-a": 100}
        assert sampler.sample().gpu_bytes == 0
        gpu.used = {"GPU-a": 3100}
        assert sampler.sample().gpu_bytes == 3000

    def test_a_hidden_figure_is_not_counted_as_zero(self, proc: Path) -> None:
        gpu = FakeGpu()
        sampler = Sampler(10, nvml=gpu, proc=proc)
        gpu.processes, gpu.used = {10: None}, {"GPU-a": 700}
        sample = sampler.sample()
        assert (sample.gpu_bytes, sample.gpu_method) == (200, "device_delta")

    def test_ids_of_another_namespace_are_not_believed(self, proc: Path) -> None:
        (proc / "self/ns/pid").unlink()
        (proc / "self/ns/pid").symlink_to("pid:[4026532000]")
        gpu = FakeGpu()
        sampler = Sampler(10, nvml=gpu, proc=proc)
        gpu.processes, gpu.used = {10: 99999, 31337: 5}, {"GPU-a": 700}
        sample = sampler.sample()
        assert (sample.gpu_bytes, sample.gpu_method) == (200, "device_delta")
        gpu.processes = {10: 150}
        assert sampler.sample().gpu_method == "per_process"

    def test_without_a_baseline_there_is_no_difference(self, proc: Path) -> None:
        gpu = FakeGpu()
        gpu.used = Unavailable("lost")
        sampler = Sampler(10, nvml=gpu, proc=proc)
        gpu.used = {"GPU-a": 700}
        sample = sampler.sample()
        assert (sample.gpu_bytes, sample.gpu_method) == (None, "unavailable")
        assert sample.gpu_reason == (
            "NVML lists no process of the engine, and before the start: lost"
        )

    def test_a_gpu_lost_in_mid_run_is_unavailable(self, proc: Path) -> None:
        gpu = FakeGpu()
        sampler = Sampler(10, nvml=gpu, proc=proc)
        gpu.processes = gpu.used = Unavailable("the GPU is lost")
        sample = sampler.sample()
        assert (sample.gpu_bytes, sample.gpu_method) == (None, "unavailable")
        assert sample.gpu_reason == "the GPU is lost"
        assert sample.ram_method == "pss"

    def test_through_the_real_pynvml(self, tmp_path: Path) -> None:
        code = """
import json, os, pathlib, msgspec
from launcher.hardware.nvml import open_nvml
from launcher.record.sampler import Sampler
script = pathlib.Path(os.environ["QLAUNCH_TEST_NVML"])
sampler = Sampler(os.getpid(), nvml=open_nvml())
seen = []
def look():
    sample = sampler.sample()
    seen.append([sample.gpu_bytes, sample.gpu_method])
look()
good = script.read_text()
script.write_text(good + f"process|0|{os.getpid()}|3000\\nprocess|0|1|77\\n"); look()
script.write_text(good.replace("|1000|", "|4500|")); look()
script.write_text(good + "fail_card|0|*|15\\n"); look()
print(json.dumps(seen))
"""
        box = machine("t4", cards=(Card("Tesla T4", (7, 5), 90000, 1000),))
        assert box.run(tmp_path, code) == [
            [0, "device_delta"],
            [3000, "per_process"],
            [3500, "device_delta"],
            [None, "unavailable"],
        ]
        assert uuid(0) in box.script()


class TestPauses:
    def test_intervals_while_starting_and_ready(self) -> None:
        assert pause_s(0.001, ready=False) == 0.5
        assert pause_s(0.001, ready=True) == 10.0

    def test_dear_samples_are_taken_less_often(self) -> None:
        assert pause_s(0.025, ready=False) == pytest.approx(2.5)
        assert pause_s(0.2, ready=True) == pytest.approx(40.0)
