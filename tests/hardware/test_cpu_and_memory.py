"""CPU threads and memory under control groups, read from trees that stand in for machines."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher.hardware.cpu import cpu_quota, read_cpu
from launcher.hardware.detect import detect
from launcher.hardware.memory import read_memory
from launcher.linux.cgroup import groups

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30
V2_MOUNT = "30 20 0:26 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw\n"
V1_MOUNTS = (
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)
NO_LIMIT_V1 = "9223372036854771712\n"
CPUINFO = (
    "processor\t: 0\nmodel name\t: Some EPYC\nflags\t\t: sse2 avx512_bf16 avx2\n\n"
    "processor\t: 1\nmodel name\t: Some EPYC\nflags\t\t: other\n"
)
MEMINFO = "MemTotal: 16777216 kB\nMemFree: 1048576 kB\nMemAvailable: 8388608 kB\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    """A tree with a 16-processor machine of 16 GiB, and `files` over it."""
    usual = {
        "proc/cpuinfo": CPUINFO,
        "proc/meminfo": MEMINFO,
        "sys/devices/system/cpu/online": "0-15\n",
    }
    for name, text in (usual | files).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v2(own: str, files: dict[str, str]) -> dict[str, str]:
    return {"proc/self/cgroup": f"0::{own}\n", "proc/self/mountinfo": V2_MOUNT} | {
        f"sys/fs/cgroup/{name}": text for name, text in files.items()
    }


def v1(own: str, files: dict[str, str]) -> dict[str, str]:
    return {
        "proc/self/cgroup": f"5:memory:{own}\n3:cpu,cpuacct:{own}\n0::/\n",
        "proc/self/mountinfo": V1_MOUNTS,
    } | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}


class TestThreads:
    def test_without_limits_the_machine_decides(self, tmp_path: Path) -> None:
        cpu = read_cpu(tree(tmp_path, {}), affinity=16, environ={})
        assert (cpu.usable, cpu.usable_source, cpu.logical) == (16, "machine", 16)
        assert cpu.model == "Some EPYC"
        assert cpu.flags == ("avx2", "avx512_bf16", "sse2")
        assert cpu.computes_bf16

    def test_affinity_is_named_when_it_decides(self, tmp_path: Path) -> None:
        cpu = read_cpu(tree(tmp_path, {}), affinity=3, environ={})
        assert (cpu.usable, cpu.usable_source) == (3, "affinity")

    @pytest.mark.parametrize(
        ("text", "threads"),
        [("250000 100000", 2), ("399999 100000", 3), ("50000 100000", 1), ("1000 100000", 1)],
    )
    def test_a_v2_quota_is_rounded_down_but_never_to_none(
        self, tmp_path: Path, text: str, threads: int
    ) -> None:
        files = v2("/user/app", {"user/app/cpu.max": text})
        cpu = read_cpu(tree(tmp_path, files), affinity=16, environ={})
        assert (cpu.usable, cpu.usable_source) == (threads, "cgroup quota")

    def test_the_quota_of_a_parent_counts(self, tmp_path: Path) -> None:
        files = v2("/a/b/c", {"a/b/c/cpu.max": "max 100000", "a/cpu.max": "300000 100000"})
        assert cpu_quota(tree(tmp_path, files)) == 3.0

    def test_the_tightest_level_wins(self, tmp_path: Path) -> None:
        files = v2("/a/b", {"a/b/cpu.max": "800000 100000", "a/cpu.max": "400000 200000"})
        assert cpu_quota(tree(tmp_path, files)) == 2.0

    def test_a_container_sees_its_own_group_as_the_root_of_the_mount(self, tmp_path: Path) -> None:
        files = v2("/", {"cpu.max": "150000 100000"})
        assert cpu_quota(tree(tmp_path, files)) == 1.5

    @pytest.mark.parametrize("own", ["/../../outside", "/not/mounted/here"])
    def test_a_group_outside_of_the_mount_falls_back_to_the_mount(
        self, tmp_path: Path, own: str
    ) -> None:
        files = v2(own, {"cpu.max": "200000 100000"})
        assert cpu_quota(tree(tmp_path, files)) == 2.0

    def test_a_bind_mount_of_one_group_is_followed(self, tmp_path: Path) -> None:
        files = {
            "proc/self/cgroup": "3:cpu:/docker/abc/inner\n",
            "proc/self/mountinfo": "9 8 0:1 /docker/abc /cg\\040x/cpu ro - cgroup cgroup rw,cpu\n",
            "cg x/cpu/inner/cpu.cfs_quota_us": "700000",
            "cg x/cpu/inner/cpu.cfs_period_us": "100000",
        }
        assert cpu_quota(tree(tmp_path, files)) == 7.0

    def test_a_v1_quota(self, tmp_path: Path) -> None:
        files = v1(
            "/box", {"cpu/box/cpu.cfs_quota_us": "450000", "cpu/box/cpu.cfs_period_us": "100000"}
        )
        cpu = read_cpu(tree(tmp_path, files), affinity=16, environ={})
        assert (cpu.usable, cpu.usable_source) == (4, "cgroup quota")

    def test_affinity_below_the_quota_is_what_counts(self, tmp_path: Path) -> None:
        cpu = read_cpu(
            tree(tmp_path, v2("/", {"cpu.max": "800000 100000"})), affinity=2, environ={}
        )
        assert (cpu.usable, cpu.usable_source) == (2, "affinity")

    @pytest.mark.parametrize("text", ["", "max", "max 100000", "-1 100000", "0 100000", "5 0", "ü"])
    def test_no_quota_and_nonsense_limit_nothing(self, tmp_path: Path, text: str) -> None:
        assert cpu_quota(tree(tmp_path, v2("/", {"cpu.max": text}))) is None

    def test_v1_says_minus_one_for_no_quota(self, tmp_path: Path) -> None:
        files = v1("/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"})
        assert cpu_quota(tree(tmp_path, files)) is None

    def test_masked_proc_files_use_the_customary_places(self, tmp_path: Path) -> None:
        assert cpu_quota(tree(tmp_path, {"sys/fs/cgroup/cpu.max": "300000 100000"})) == 3.0

    def test_an_arm_processor_has_features_and_a_part(self, tmp_path: Path) -> None:
        text = "Features\t: fp asimd bf16\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"
        cpu = read_cpu(tree(tmp_path, {"proc/cpuinfo": text}), affinity=1, environ={})
        assert cpu.model == "Arm implementer 0x41 part 0xd40"
        assert cpu.computes_bf16

    def test_an_empty_root_still_gives_a_reading(self, tmp_path: Path) -> None:
        cpu = read_cpu(tmp_path, affinity=1, environ={})
        assert (cpu.model, cpu.flags) == ("unknown", ())
        assert cpu.usable == 1

    def test_this_machine(self) -> None:
        cpu = read_cpu()
        assert 1 <= cpu.usable <= len(os.sched_getaffinity(0)) <= cpu.logical
        assert cpu.flags
        assert cpu.machine == os.uname().machine


class TestMemory:
    def test_without_a_limit_the_machine_decides(self, tmp_path: Path) -> None:
        memory = read_memory(tree(tmp_path, {}))
        assert (memory.total_bytes, memory.available_bytes) == (16 * GIB, 8 * GIB)
        assert memory.limit_bytes is None
        assert memory.usable_bytes == 16 * GIB

    def test_a_v2_limit_leaves_what_is_not_used(self, tmp_path: Path) -> None:
        files = v2("/app", {"app/memory.max": f"{4 * GIB}", "app/memory.current": f"{GIB}"})
        memory = read_memory(tree(tmp_path, files))
        assert (memory.limit_bytes, memory.available_bytes) == (4 * GIB, 3 * GIB)

    def test_droppable_page_cache_counts_as_available(self, tmp_path: Path) -> None:
        files = v2(
            "/",
            {
                "memory.max": f"{4 * GIB}",
                "memory.current": f"{4 * GIB}",
                "memory.stat": f"anon 5\ninactive_file {3 * GIB}\nactive_file {GIB}\n",
            },
        )
        assert read_memory(tree(tmp_path, files)).available_bytes == 3 * GIB

    def test_the_tightest_level_decides_each_figure(self, tmp_path: Path) -> None:
        files = v2(
            "/a/b",
            {
                "a/b/memory.max": f"{2 * GIB}",
                "a/b/memory.current": "0",
                "a/memory.max": f"{6 * GIB}",
                "a/memory.current": f"{5 * GIB}",
            },
        )
        memory = read_memory(tree(tmp_path, files))
        assert (memory.limit_bytes, memory.available_bytes) == (2 * GIB, GIB)

    def test_a_v1_limit(self, tmp_path: Path) -> None:
        files = v1(
            "/box",
            {
                "memory/memory.limit_in_bytes": NO_LIMIT_V1,
                "memory/box/memory.limit_in_bytes": f"{3 * GIB}",
                "memory/box/memory.usage_in_bytes": f"{2 * GIB}",
                "memory/box/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}\n",
            },
        )
        memory = read_memory(tree(tmp_path, files))
        assert (memory.limit_bytes, memory.available_bytes) == (3 * GIB, 2 * GIB)

    @pytest.mark.parametrize("text", ["max", NO_LIMIT_V1, f"{16 * GIB}", f"{1 << 62}", "", "?"])
    def test_a_limit_that_limits_nothing_is_none(self, tmp_path: Path, text: str) -> None:
        assert read_memory(tree(tmp_path, v2("/", {"memory.max": text}))).limit_bytes is None

    def test_the_machine_may_have_less_left_than_the_limit(self, tmp_path: Path) -> None:
        files = v2("/", {"memory.max": f"{12 * GIB}", "memory.current": "0"})
        assert read_memory(tree(tmp_path, files)).available_bytes == 8 * GIB

    def test_more_used_than_allowed_leaves_nothing_rather_than_less(self, tmp_path: Path) -> None:
        files = v2("/", {"memory.max": f"{GIB}", "memory.current": f"{2 * GIB}"})
        assert read_memory(tree(tmp_path, files)).available_bytes == 0

    def test_an_old_kernel_without_memavailable(self, tmp_path: Path) -> None:
        text = "MemTotal: 1000 kB\nMemFree: 100 kB\nBuffers: 20 kB\nCached: 30 kB\n"
        assert read_memory(tree(tmp_path, {"proc/meminfo": text})).available_bytes == 150 * 1024

    def test_this_machine(self) -> None:
        memory = read_memory()
        assert 0 < memory.available_bytes <= memory.total_bytes
        assert memory.total_bytes <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cgroup=st.text(max_size=200), mountinfo=st.text(max_size=300), limit=st.text(max_size=30))
def test_no_content_of_these_files_can_break_a_reading(
    tmp_path: Path, cgroup: str, mountinfo: str, limit: str
) -> None:
    files = {
        "proc/self/cgroup": f"0::/a\n{cgroup}",
        "proc/self/mountinfo": V2_MOUNT + mountinfo,
        "sys/fs/cgroup/a/cpu.max": limit,
        "sys/fs/cgroup/a/memory.max": limit,
        "proc/cpuinfo": cgroup,
        "proc/meminfo": mountinfo,
    }
    root = tree(tmp_path, {})
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode(errors="surrogatepass"))
    assert read_cpu(root, affinity=4, environ={}).usable >= 1
    assert read_memory(root).available_bytes >= 0
    assert all(group.path.is_relative_to(root) for group in groups(root, "cpu"))


def test_a_fifo_in_place_of_a_file_does_not_hang(tmp_path: Path) -> None:
    root = tree(tmp_path, v2("/", {"cpu.stat": ""}))
    os.mkfifo(root / "sys/fs/cgroup/cpu.max")
    assert cpu_quota(root) is None


def test_a_machine_without_a_gpu_is_read_in_50_ms_of_processor_time() -> None:
    detect({})  # imports
    began = time.process_time()
    for _ in range(3):
        found = detect({})
    if found.gpu_status.startswith("no NVIDIA driver"):
        assert time.process_time() - began < 3 * 0.05
