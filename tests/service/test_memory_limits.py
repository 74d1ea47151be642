"""Services under a memory limit of the kernel's, and the counters that prove what it killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.documents.service_state import ServiceState
from launcher.errors import QlaunchError
from launcher.linux import processes
from launcher.linux.oom import oom_kills
from launcher.paths import dirs
from launcher.service import control
from tests.cgroups import MemoryGroup, memory_group
from tests.service.home import Home, eventually, status_of

V2 = "30 20 0:26 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n"
V1 = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    with memory_group() as made:
        yield made


def start(home: Home, group: MemoryGroup, *switches: str) -> ServiceState:
    home.options["real_classes"] = True
    return control.launch(home.plan(*switches), entry=group.enter(*home.entry))


def test_a_start_that_the_kernel_ends_for_memory_is_host_oom(
    group: MemoryGroup, home: Home
) -> None:
    group.limit(160)
    with pytest.raises(QlaunchError) as caught:
        start(home, group, "--workers", "--leak", "400")
    assert (caught.value.code, caught.value.exit_code) == ("start_failed", 6)
    failure = status_of(caught.value)["failure"]
    assert failure["failure_class"] == "host_oom"
    assert "The kernel killed a process of the engine" in failure["message"]
    assert "higher memory limit" in failure["fix"]
    home.assert_nothing_left()
    assert eventually(lambda: not group.processes()) is True
    record = json.loads((dirs().runs / status_of(caught.value)["run"] / "run.json").read_text())
    assert record["failure"]["failure_class"] == "host_oom"


def test_a_part_of_a_serving_engine_that_the_kernel_ends_for_memory_is_host_oom(
    group: MemoryGroup, home: Home, tmp_path: Path
) -> None:
    """Its scheduler grows until it is killed; the front, which lives on, is not waited for."""
    home.options["timing"]["limb_s"] = 0.2
    flag = tmp_path / "flag"
    state = start(home, group, "--workers", "--worker-leak-flag", str(flag))
    group.limit(300)
    flag.touch()
    again = eventually(lambda: (s := control.status("svc")).restarts and s)
    flag.unlink()
    assert again.failure.failure_class == "host_oom"
    back = home.wait_for("ready")
    assert back.engine != state.engine


def test_under_the_same_limit_a_kill_by_a_person_is_killed(group: MemoryGroup, home: Home) -> None:
    group.limit(300)
    state = start(home, group)
    assert state.engine is not None
    processes.send(state.engine, signal.SIGKILL)
    after = eventually(lambda: (s := control.status("svc")).restarts and s)
    assert after.failure is None or after.failure.failure_class == "killed"
    crash = json.loads(
        next(
            line
            for line in (dirs().runs / state.run / "events.ndjson").read_text().splitlines()
            if '"engine_ended"' in line
        )
    )
    assert crash["failure_class"] == "killed"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


VMSTAT = {"proc/vmstat": "pgfault 9\noom_kill 41\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(VMSTAT, 41, id="no groups"),
        pytest.param({}, None, id="nothing"),
        pytest.param({"proc/vmstat": "pgfault 9\noom_kill many\n"}, None, id="no number"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/svc\n",
                "proc/self/mountinfo": V2,
                "sys/fs/cgroup/svc/memory.events": "low 0\noom 2\noom_kill 7\n",
                **VMSTAT,
            },
            7,
            id="v2",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a/b\n",
                "proc/self/mountinfo": V2,
                "sys/fs/cgroup/a/b/cgroup.procs": "1\n",  # the controller is not on below a
                "sys/fs/cgroup/a/memory.events": "oom_kill 5\n",
                **VMSTAT,
            },
            5,
            id="v2, counted above",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:cpu,memory:/svc\n0::/\n",
                "proc/self/mountinfo": V1,
                "sys/fs/cgroup/memory/svc/memory.oom_control": (
                    "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"
                ),
                **VMSTAT,
            },
            3,
            id="v1",
        ),
        pytest.param(
            {
                # A container: it sees its own group as the root of what is mounted.
                "proc/self/cgroup": "5:memory:/docker/abc\n",
                "proc/self/mountinfo": V1.replace(" / ", " /docker/abc ", 1),
                "sys/fs/cgroup/memory/memory.oom_control": "oom_kill 2\n",
                **VMSTAT,
            },
            2,
            id="v1, in a container",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/../../outside\n",
                "proc/self/mountinfo": V2,
                "sys/fs/cgroup/cgroup.procs": "1\n",
                **VMSTAT,
            },
            41,
            id="v2, the root counts nothing",
        ),
    ],
)
def test_the_nearest_counter_of_memory_kills_is_read(
    tmp_path: Path, files: dict[str, str], expected: int | None
) -> None:
    assert oom_kills(tree(tmp_path, files)) == expected


def test_this_machines_counter_can_be_read() -> None:
    count = oom_kills()
    assert count is None or count >= 0
    assert count is not None or not os.path.exists("/proc/vmstat")  # noqa: PTH110
