"""Two hundred lives: whatever a life takes, it gives back. `make soak`, not part of `make test`."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from launcher.documents.service_state import ServiceState
from launcher.service import control
from tests.engine_real import qlaunch
from tests.service.home import Home

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


def look() -> dict[str, Any]:
    me = psutil.Process()
    children = me.children()
    return {
        "fds": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "threads": threading.active_count(),
        "zombies": sum(child.status() == psutil.STATUS_ZOMBIE for child in children),
        "rss_mib": round(me.memory_info().rss / 2**20, 1),
    }


def files(root: Path) -> int:
    return sum(path.is_file() for path in root.rglob("*") if not path.is_symlink())


def cycle(
    count: int, up: Callable[[], ServiceState], down: Callable[[], object], root: Path
) -> dict[str, Any]:
    """`count` lives, and figures from after the first to after the last."""
    supervisor = []
    for number in range(count):
        state = up()
        assert state.supervisor is not None
        rss = psutil.Process(state.supervisor.pid).memory_info().rss
        supervisor.append(round(rss / 2**20, 1))
        down()
        if number == 0:
            before, files_before = look(), files(root)
    after = look()
    return {
        "cycles": count,
        **{name: [before[name], after[name]] for name in before},
        "supervisor_mib": [supervisor[0], supervisor[-1]],
        "files_a_cycle": round((files(root) - files_before) / max(1, count - 1), 2),
    }


def hold(config: pytest.Config, name: str, found: dict[str, Any]) -> None:
    assert config.cache is not None
    kept = config.cache.get("reliability/soak", None) or {}
    config.cache.set("reliability/soak", {**kept, name: found})
    print(json.dumps({name: found}))
    assert found["fds"][1] <= found["fds"][0]
    assert found["threads"][1] <= found["threads"][0]
    assert found["zombies"][1] <= found["zombies"][0]  # another test's may be there before
    assert found["rss_mib"][1] <= found["rss_mib"][0] * 1.1 + 2
    assert found["supervisor_mib"][1] <= found["supervisor_mib"][0] * 1.1 + 2
    assert found["supervisor_mib"][1] <= 60
    assert found["files_a_cycle"] <= 6  # the run record, and nothing else


def test_two_hundred_cycles_of_the_fake_engine(home: Home, pytestconfig: pytest.Config) -> None:
    plan = home.plan("--workers", "--setsid-grandchild")

    def down() -> None:
        assert control.down("svc").left == ()

    found = cycle(200, lambda: home.up(plan), down, home.root / "state")
    home.assert_nothing_left()
    hold(pytestconfig, "fake", found)


@pytest.mark.engine
def test_five_cycles_of_the_real_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    from launcher.paths import dirs

    there = dirs()
    home = qlaunch.Home(tmp_path / "home", there.data, tmp_path)
    monkeypatch.setenv("QLAUNCH_HOME", str(home.root))

    def up() -> ServiceState:
        home.run("up", "cpu-minilm", "--name", "soak", "--port", "0", "--json").ok()
        return control.status("soak")

    try:
        found = cycle(5, up, lambda: home.run("down", "soak", "--json").ok(), home.root / "state")
    finally:
        home.sweep()
    hold(pytestconfig, "real", found)
