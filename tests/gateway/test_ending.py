"""The end of a gateway as a process: whatever signal asks for it, and whatever hangs."""

from __future__ import annotations

import signal
from concurrent.futures import Future, ThreadPoolExecutor

import requests

from tests.cli.conftest import run
from tests.gateway.test_process import SERVER, Process, Spawn, ask, gateway, home, right, spawn
from tests.gateway.test_process import server as server
from tests.patience import PATIENCE_S, eventually, no_hang

__all__ = ["gateway", "home", "run", "spawn"]

SHORT = """
import sys
from launcher.gateway.run import GatewaySettings, UrlGroup, serve
group = UrlGroup(name="m", urls=(sys.argv[1],))
settings = GatewaySettings(host="127.0.0.1", port=0, urls=(group,), drain_s=float(sys.argv[2]))
serve(settings, lambda endpoint: print(endpoint, flush=True))
"""
IGNORING = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, "-m", "launcher", *sys.argv[1:]])
"""


def _under_way(made: Process, pool: ThreadPoolExecutor) -> Future[requests.Response]:
    asked = pool.submit(ask, made.url, ["hangs"])
    page = made.url[:-2] + "metrics"
    eventually(lambda: "qlaunch_gateway_" in requests.get(page, timeout=PATIENCE_S).text)
    eventually(lambda: _calls(requests.get(page, timeout=PATIENCE_S).text))
    return asked


def _calls(page: str) -> bool:
    return any("open_calls{" in line and line.endswith(" 1.0") for line in page.splitlines())


def _refused(asked: Future[requests.Response]) -> None:
    answer = asked.result(PATIENCE_S)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")
    assert int(answer.headers["Retry-After"]) > 0


def test_a_server_that_hangs_does_not_keep_a_gateway_from_its_end(spawn: Spawn) -> None:
    """It took three times the 30 s, and the client's connection was closed without an answer."""
    slow = spawn("-c", SERVER, "0", "0")
    made = spawn("-c", SHORT, slow.url, "2.5")
    eventually(lambda: ask(made.url, ["a"]).status_code == 200)
    slow.process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool, no_hang():
        asked = _under_way(made, pool)
        assert made.end(signal.SIGTERM) == 0
        _refused(asked)


def test_a_second_ctrl_c_ends_a_gateway_at_once_and_a_second_sigterm_does_not(
    spawn: Spawn, gateway: Spawn
) -> None:
    """Under a manager that signals all of its processes, two SIGTERM arrive."""
    slow = spawn("-c", SERVER, "0", "0")
    made = gateway(f"m={slow.url}")
    assert right(ask(made.url, ["a"]), ["a"])
    slow.process.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(2) as pool:
        asked = _under_way(made, pool)
        for _ in range(2):
            made.process.send_signal(signal.SIGTERM)
        eventually(lambda: "draining" in made.log.read_text())
        slow.process.send_signal(signal.SIGCONT)
        assert right(asked.result(PATIENCE_S), ["hangs"])
        assert made.process.wait(PATIENCE_S) == 0
        made = gateway(f"m={slow.url}", "--cache", "none")
        slow.process.send_signal(signal.SIGSTOP)
        asked = _under_way(made, pool)
        made.process.send_signal(signal.SIGINT)
        eventually(lambda: "draining" in made.log.read_text())
        assert made.end(signal.SIGINT) == 0
        _refused(asked)


def test_a_closed_terminal_ends_a_gateway_in_order(gateway: Spawn, server: Process) -> None:
    """SIGHUP killed it: what waited to be kept was lost, and requests under way were cut."""
    made = gateway(f"m={server.url}", "--cache-memory", "0")
    assert right(ask(made.url, ["a"]), ["a"])
    assert made.end(signal.SIGHUP) == 0
    again = gateway(f"m={server.url}", "--cache-memory", "0")
    assert ask(again.url, ["a"]).headers["X-Cache-Hits"] == "1"


def test_nohup_keeps_a_gateway(spawn: Spawn, server: Process) -> None:
    made = spawn("-c", IGNORING, "gateway", "--port", "0", f"m={server.url}")
    made.process.send_signal(signal.SIGHUP)
    eventually(lambda: ask(made.url, ["a"]).status_code == 200)
    assert made.end(signal.SIGTERM) == 0
