"""Starts and ends of services whose engine is real. Each test starts it once."""

from __future__ import annotations

import os
import signal

from launcher.linux import processes as procs
from tests.engine_real.qlaunch import (
    Home,
    alive,
    assert_port_is_free,
    eventually,
    tree,
)


def test_without_the_plugin_the_wrong_pooling_is_found(home: Home) -> None:
    up = home.run("up", "cpu-minilm", "--no-plugin", "--port", "0", "--json")
    assert up.code == 7, up.stderr
    assert up.data["smoke"]["suspect"] == "pooling"
    assert not up.checks["parity"]
    assert up.checks["finite"]
    (error,) = up.document["errors"]
    assert error["code"] == "smoke_failed"
    assert "pool" in (error["message"] + (error["fix"] or "")).lower()
    # What failed its checks serves nobody.
    assert home.run("status", "cpu-minilm", "--json").code == 3
    assert procs.marked(f"QLAUNCH_HOME={home.root}") == []


def test_spawned_in_float32_until_its_supervisor_is_killed(home: Home) -> None:
    arguments = ("--start-method", "spawn", "--dtype", "float32", "--port", "0", "--json")
    up = home.run("up", "cpu-minilm", *arguments).ok()
    assert up.data["smoke"]["worst_cosine"] >= 0.9999
    log = home.log("cpu-minilm")
    assert "qlaunch: children are spawned, not forked: as asked" in log
    assert "children are forked" not in log

    processes = tree(up.data["supervisor_pid"])
    assert up.data["pid"] in {process.pid for process in processes}
    os.kill(up.data["supervisor_pid"], signal.SIGKILL)
    eventually(lambda: not alive(processes))
    assert_port_is_free(up.data["endpoint"])
    status = home.run("status", "cpu-minilm", "--json")
    assert status.code == 3
    assert status.data["state"] == "failed"
    assert "supervisor" in status.data["failure"]["message"]
