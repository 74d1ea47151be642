"""What doctor says of processor, memory, NUMA, disks, limits and clock, on trees and on paper."""

from __future__ import annotations

import resource
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from launcher.doctor import host
from launcher.doctor.runner import Finding
from launcher.hardware.disk import nearest, read_disk
from launcher.hardware.inventory import Disk, NumaNode
from launcher.hardware.memory import read_swap
from launcher.hardware.numa import processors, read_numa
from launcher.units import size

GIB = 1 << 30
INFINITE = resource.RLIM_INFINITY
CGROUP = {
    "proc/self/cgroup": "0::/\n",
    "proc/self/mountinfo": "30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
}


def tree(root: Path, files: dict[str, str]) -> Path:
    usual = {
        "proc/cpuinfo": f"model name : Some CPU\nflags : {FLAGS}\n\n",
        "proc/meminfo": memory(16, 12),
        "sys/devices/system/cpu/online": "0-7\n",
    }
    for name, text in (usual | files).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


FLAGS = "avx2 avx512_bf16 sse2"


def memory(total: float, available: float, swap: tuple[float, float] = (0, 0)) -> str:
    figures = {"MemTotal": total, "MemAvailable": available}
    figures |= {"SwapTotal": swap[0], "SwapFree": swap[1]}
    return "".join(f"{key}: {int(value * (1 << 20))} kB\n" for key, value in figures.items())


def by_name(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


# --- processor -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (FLAGS, "ok", "computes bfloat16 (avx512_bf16)"),
        ("avx2 amx_bf16 avx512_bf16", "ok", "computes bfloat16 (amx_bf16, avx512_bf16)"),
        ("avx2", "ok", "no bfloat16 arithmetic"),
        ("sse2", "warning", "no AVX2"),
    ],
)
def test_instruction_sets(tmp_path: Path, flags: str, status: str, said: str) -> None:
    text = f"model name : Some CPU\nflags : {flags}\n\n"
    found = by_name(
        host.cpu_findings(tree(tmp_path, {"proc/cpuinfo": text}), affinity=8, environ={})
    )
    assert found["cpu"].status == status
    assert said in found["cpu"].message
    assert found["cpu"].message.startswith("Some CPU (")


@pytest.mark.parametrize(
    ("affinity", "quota", "status", "said"),
    [
        (8, None, "ok", "8 of 8 threads can be used, decided by the machine itself"),
        (3, None, "ok", "3 of 8 threads can be used, decided by the affinity"),
        (8, "250000", "ok", "2 of 8 threads can be used, decided by the cgroup quota (2.5 proc"),
        (8, "50000", "warning", "the control group grants 0.5 of a processor"),
    ],
)
def test_which_limit_decides_the_threads(
    tmp_path: Path, affinity: int, quota: str | None, status: str, said: str
) -> None:
    files = CGROUP | ({"sys/fs/cgroup/cpu.max": f"{quota} 100000"} if quota else {})
    found = by_name(host.cpu_findings(tree(tmp_path, files), affinity=affinity))
    assert found["cpu threads"].status == status
    assert said in found["cpu threads"].message


def test_numa_nodes(tmp_path: Path) -> None:
    node = "sys/devices/system/node"
    files = {
        f"{node}/online": "0,2\n",
        f"{node}/node0/cpulist": "0-3,8\n",
        f"{node}/node0/meminfo": "Node 0 MemTotal:       1048576 kB\nNode 0 MemFree: 5 kB\n",
        f"{node}/node2/cpulist": "\n",
    }
    root = tree(tmp_path, files)
    assert read_numa(root) == (
        NumaNode(index=0, cpus=(0, 1, 2, 3, 8), memory_total_bytes=GIB),
        NumaNode(index=2, cpus=(), memory_total_bytes=None),
    )
    found = by_name(host.cpu_findings(root, affinity=8))["numa"]
    assert found.message == (
        "2 nodes: node 0 with 5 CPUs, 1.07 GB; node 2 with 0 CPUs, an unknown size"
    )


def test_a_kernel_without_numa(tmp_path: Path) -> None:
    assert read_numa(tree(tmp_path, {})) == ()
    found = by_name(host.cpu_findings(tmp_path, affinity=8))
    assert found["numa"].status == "unavailable"


@pytest.mark.parametrize("text", ["", "x", "1-", "3-x", "0-99999999", "-1", "1;2"])
def test_a_damaged_list_of_processors_is_empty(text: str) -> None:
    assert processors(text) == ()


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("available", "status"), [(12.0, "ok"), (2.0, "warning"), (1.0, "problem"), (0.0, "problem")]
)
def test_available_memory(tmp_path: Path, available: float, status: str) -> None:
    root = tree(tmp_path, {"proc/meminfo": memory(16, available)})
    found = by_name(host.memory_findings(root))["memory"]
    assert found.status == status
    assert f"{size(available * GIB)} of 17.2 GB" in found.message
    assert bool(found.fix) == (status != "ok")


def test_who_takes_the_memory_is_named_where_there_is_too_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = {"small": 1, "huge": 9, "large": 5, "middle": 3}
    processes = [
        SimpleNamespace(
            pid=pid, info={"name": name, "memory_info": SimpleNamespace(rss=gb * 10**9)}
        )
        for pid, (name, gb) in enumerate(taken.items(), 100)
    ]
    ours = SimpleNamespace(pid=99, info={"name": "not readable", "memory_info": None})
    monkeypatch.setattr(psutil, "process_iter", lambda _fields: iter([ours, *processes]))
    root = tree(tmp_path, {"proc/meminfo": memory(16, 0.5)})
    fix = by_name(host.memory_findings(root))["memory"].fix or ""
    assert fix.endswith(
        "; the largest are huge (PID 101) with 9.00 GB, large (PID 102) with 5.00 GB, middle"
        " (PID 103) with 3.00 GB"
    )


def test_the_largest_processes_are_read_from_this_machine() -> None:
    assert " (PID " in host._end("end other processes")


def test_the_limit_of_the_control_group_counts(tmp_path: Path) -> None:
    files = CGROUP | {
        "sys/fs/cgroup/memory.max": str(2 * GIB),
        "sys/fs/cgroup/memory.current": str(GIB),
    }
    found = by_name(host.memory_findings(tree(tmp_path, files)))["memory"]
    assert found.status == "problem"
    assert "the control group's limit is 2.15 GB" in found.message


@pytest.mark.parametrize(
    ("swap", "status"),
    [((0, 0), "ok"), ((8, 8), "ok"), ((8, 6), "ok"), ((8, 1), "warning"), ((0.5, 0), "ok")],
)
def test_swap_in_use(tmp_path: Path, swap: tuple[float, float], status: str) -> None:
    root = tree(tmp_path, {"proc/meminfo": memory(16, 12, swap)})
    assert by_name(host.memory_findings(root))["swap"].status == status


def test_swap_that_is_not_told(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/meminfo": "MemTotal: 1048576 kB\n"})
    assert read_swap(root) is None
    assert by_name(host.memory_findings(root))["swap"].status == "unavailable"


# --- disks ---------------------------------------------------------------------------------------


def disk(**changes: object) -> Disk:
    values: dict[str, object] = {
        "path": Path("/data"),
        "mount": Path("/"),
        "total_bytes": 100 * GIB,
        "free_bytes": 50 * GIB,
        "free_files": 10**6,
        "read_only": False,
        "no_exec": False,
    }
    return Disk(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({}, "ok", "53.7 GB of 107 GB are free on /"),
        ({"free_bytes": GIB}, "warning", "4.29 GB are needed for an engine"),
        ({"free_bytes": 0}, "problem", "0 kB of 107 GB"),
        ({"free_files": 3}, "problem", "only 3 inodes"),
        ({"free_files": None}, "ok", "53.7 GB"),
        ({"read_only": True}, "problem", "read-only"),
        ({"no_exec": True}, "problem", "noexec"),
    ],
)
def test_disks(changes: dict[str, object], status: str, said: str) -> None:
    found = host.judge_disk(
        "disk data", disk(**changes), needs=4 * GIB, why="for an engine", runs=True
    )
    assert found.status == status
    assert said in found.message
    assert ("QLAUNCH_HOME" in (found.fix or "")) == (status != "ok")


def test_noexec_matters_only_where_engines_are_run() -> None:
    found = host.judge_disk("x", disk(no_exec=True), needs=0, why="", runs=False)
    assert found.status == "ok"


def test_a_folder_that_is_not_there_yet_has_the_disk_of_the_one_above(tmp_path: Path) -> None:
    wanted = tmp_path / "a" / "b" / "c"
    assert nearest(wanted) == tmp_path
    found = read_disk(wanted)
    assert found.path == tmp_path
    assert found.mount.is_mount()
    assert 0 < found.free_bytes <= found.total_bytes
    (tmp_path / "a").write_text("a file")
    assert read_disk(wanted).path == tmp_path / "a"


# --- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("soft", "hard", "status"),
    [(1024, 1048576, "ok"), (256, 256, "warning"), (64, INFINITE, "ok"), (100, 1023, "warning")],
)
def test_open_files(soft: int, hard: int, status: str) -> None:
    assert host.judge_open_files(soft, hard).status == status


@pytest.mark.parametrize(
    ("hard", "status"),
    [(resource.RLIM_INFINITY, "ok"), (1_500_000_000, "problem"), (64 * 2**30, "ok")],
)
def test_address_space(hard: int, status: str) -> None:
    assert host.judge_addresses(hard).status == status


@pytest.mark.parametrize(
    ("now", "status"),
    [(1.8e9, "ok"), (0.0, "problem"), (1.6e9, "problem"), (9e9, "problem"), (1e20, "problem")],
)
def test_the_clock(now: float, status: str) -> None:
    assert host.judge_clock(now).status == status


def test_shared_memory_that_is_not_there(tmp_path: Path) -> None:
    found = by_name(host.limit_findings(tmp_path / "shm"))
    assert found["shared memory"].status == "problem"
    assert "--shm-size" in (found["shared memory"].fix or "")


def test_everything_can_be_asked_of_this_machine(tmp_path: Path) -> None:
    found = [
        *host.cpu_findings(),
        *host.memory_findings(),
        *host.disk_findings("data", tmp_path, needs=0, why=""),
        *host.limit_findings(),
    ]
    assert [finding.name for finding in found] == [
        "cpu",
        "cpu threads",
        "numa",
        "memory",
        "swap",
        "disk data",
        "shared memory",
        "open files",
        "address space",
        "clock",
    ]
    assert all(finding.message for finding in found)
