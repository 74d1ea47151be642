"""The real engine under a memory limit of the kernel's (control groups v1 or v2)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cgroups import MemoryGroup, memory_group
from tests.engine_real.qlaunch import Home, alive, assert_port_is_free, eventually, finish, tree
from tests.engine_real.test_deaths import Watched


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    with memory_group() as made:
        yield made


def test_a_plan_is_admitted_by_the_groups_limit(group: MemoryGroup, home: Home) -> None:
    plan = ("plan", "cpu-minilm", "--json")
    group.limit(600)
    for arguments in (plan, ("up", "cpu-minilm", "--port", "0", "--json")):
        small = finish(home.start(*arguments, inside=group))
        assert small.code == 4, small.stdout
        (error,) = small.document["errors"]
        assert error["code"] == "does_not_fit"
        assert "RAM" in error["message"]
    group.limit(8 << 10)
    assert finish(home.start(*plan, inside=group)).ok().data["fits"] is True


def test_an_engine_that_outgrows_its_limit_is_host_oom(group: MemoryGroup, home: Home) -> None:
    """The limit comes down while it starts, so that the plan was right when it was made."""
    service = Watched(home, "oom")
    starting = service.up("--", "--max-total-tokens", "8192", inside=group)
    state = service.wait_for("starting", "loading")
    assert state.supervisor is not None
    supervisor = state.supervisor.pid
    eventually(lambda: len(tree(supervisor)) > 1)
    processes = tree(supervisor)
    group.limit(350)
    up = finish(starting)
    assert up.code == 6, up.stdout
    assert up.data["failure"]["failure_class"] == "host_oom", up.stdout
    assert "The kernel killed a process of the engine" in up.data["failure"]["message"]
    assert "higher memory limit" in up.data["failure"]["fix"]
    assert alive(processes) == []
    assert_port_is_free(up.data["endpoint"])
