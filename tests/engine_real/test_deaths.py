"""Parts of the real engine killed: never an orphan, the port free, the service as policy says.

What is too slow for every run is marked `soak` (`make soak`).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from launcher.documents.service_state import ServiceState
from launcher.linux import processes as procs
from launcher.linux.processes import ProcessId
from launcher.linux.procfs import title
from launcher.record.sampler import role_of
from launcher.service import ports, store
from tests.cgroups import MemoryGroup
from tests.engine_real.qlaunch import (
    UP_S,
    Finished,
    Home,
    alive,
    assert_port_is_free,
    eventually,
    finish,
    tree,
)
from tests.patience import FACTOR, HANG_S, PATIENCE_S, no_hang

SOAK = pytest.mark.soak


class Watched:
    """A service of a home, looked at from outside."""

    def __init__(self, home: Home, name: str = "deaths") -> None:
        self.home, self.name = home, name
        self.path = home.root / "state" / "services" / name / "state.json"

    def up(self, *more: str, inside: MemoryGroup | None = None) -> subprocess.Popen[str]:
        fixed = ("up", "cpu-minilm", "--name", self.name, "--port", "0", "--json")
        return self.home.start(*fixed, *more, inside=inside)

    def state(self) -> ServiceState | None:
        try:
            return store.decode_state(self.name, self.path.read_bytes())
        except OSError:
            return None

    def wait_for(self, *states: str) -> ServiceState:
        def there() -> ServiceState | None:
            found = self.state()
            return found if found and found.state in states else None

        found: ServiceState = eventually(there, UP_S)
        return found

    def reach(self, phase: str) -> ServiceState:
        """The state in `phase`. A small model loads in 40 ms, too short to be seen in the state
        file: loading begins with the scheduler's process."""
        if phase != "loading":
            return self.wait_for(phase)
        self.part("scheduler")
        found = self.state()
        assert found is not None
        return found

    def part(self, role: str) -> ProcessId:
        """The front or a scheduler, as soon as it is there."""

        def there() -> ProcessId | None:
            state = self.state()
            if state is None or state.engine is None:
                return None
            if role == "front":
                return state.engine
            found = [p for p in tree(state.engine.pid) if role_of(title("/proc", p.pid)) == role]
            return found[0] if found else None

        found: ProcessId = eventually(there, UP_S)
        return found

    def down(self) -> Finished:
        return self.home.run("down", self.name, "--json").ok()


@pytest.fixture
def service(home: Home) -> Watched:
    return Watched(home)


def embed(endpoint: str, text: str, limit_s: float = PATIENCE_S) -> str:
    """`ok`, or in a word how the call failed."""
    body = json.dumps({"input": text}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{endpoint}/embeddings", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=limit_s) as answer:
            vector = json.load(answer)["data"][0]["embedding"]
            return "ok" if len(vector) == 384 else "short"
    except TimeoutError:
        return "hangs"
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}"
    except OSError as error:
        return "hangs" if "timed out" in str(error) else "refused"


def numbers(endpoint: str, text: str) -> list[float]:
    """The vector of a text."""
    body = json.dumps({"input": text}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{endpoint}/embeddings", body, headers)
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        vector: list[float] = json.load(answer)["data"][0]["embedding"]
    assert len(vector) == 384
    return vector


class Load:
    """Calls without a pause, and what came of each."""

    def __init__(self, endpoint: str) -> None:
        self.seen: list[str] = []
        self._endpoint, self._over = endpoint, False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over:
            self.seen.append(embed(self._endpoint, f"text {len(self.seen)} of the load"))
            time.sleep(0.05)

    def begins(self) -> None:
        """Wait for its first answers."""
        eventually(lambda: self.seen.count("ok") >= 3)

    def stop(self) -> set[str]:
        self._over = True
        self._thread.join(PATIENCE_S)
        return set(self.seen)


Course = tuple[tuple[str, str], ...]
DEFAULT: Course = (("scheduler", "load"), ("front", "idle"), ("supervisor", "load"))
IDLE: Course = (("scheduler", "idle"), ("supervisor", "idle"))
LOADED: Course = (("scheduler", "load"), ("front", "load"))


@pytest.mark.parametrize(
    "course",
    [
        pytest.param(DEFAULT, id="each"),
        pytest.param(IDLE, id="idle", marks=SOAK),
        pytest.param(LOADED, id="load", marks=SOAK),
    ],
)
def test_killed_while_serving(service: Watched, course: Course) -> None:
    """One after the other, in one life of the service; without its supervisor it is over."""
    up = finish(service.up()).ok()
    eventually(lambda: (s := service.state()) and s.template)
    endpoint = a_restart_imports_nothing(service, up.data["endpoint"])
    for number, (role, phase) in enumerate(course, 1):
        load = Load(endpoint) if phase == "load" else None
        if load is not None:
            load.begins()
        if role == "supervisor":
            the_supervisor_is_killed(service)
        else:
            vectors = [numbers(endpoint, text) for text in ("back again", "word " * 200)]
            a_part_is_killed(service, role, number)
            # Bit for bit: what was imported once computes as before.
            assert [numbers(endpoint, text) for text in ("back again", "word " * 200)] == vectors
        if load is not None:
            assert load.stop() <= {"ok", "refused", "HTTP 503", "HTTP 500"}, role
    if course[-1][0] != "supervisor":
        state = service.state()
        assert state is not None
        assert state.supervisor is not None
        processes = tree(state.supervisor.pid)
        service.down()
        assert alive(processes) == []
    assert_port_is_free(endpoint)


def a_restart_imports_nothing(service: Watched, endpoint: str) -> str:
    """The supervisor executes its successor, which inherits the template; the new address."""
    before, vector = service.state(), numbers(endpoint, "back again")
    again = service.home.run("restart", service.name, "--json").ok().data
    assert before is not None
    assert before.template is not None
    assert before.engine is not None
    assert again["smoke"]["ok"]
    assert (again["template_pid"], again["run"] != before.run) == (before.template.pid, True)
    assert not alive([before.engine])
    assert numbers(again["endpoint"], "back again") == vector
    return str(again["endpoint"])


def a_part_is_killed(service: Watched, role: str, number: int) -> None:
    """It is noticed at once, nothing of the old engine stays, and the service comes back."""
    before = service.state()
    assert before is not None
    assert before.engine is not None
    old = tree(before.engine.pid)
    assert procs.send(service.part(role), signal.SIGKILL)
    # Before the next look at its health, which is 30 s away.
    eventually(lambda: (s := service.state()) and s.state != "ready", 25 * FACTOR)
    again = service.wait_for("ready", "failed")
    assert (again.state, again.restarts) == ("ready", number), role
    assert again.template == before.template
    assert again.engine is not None
    journal = (service.path.parent / "supervisor.log").read_text("utf-8")
    assert f"the engine, process {again.engine.pid}, was forked" in journal
    assert again.endpoint == before.endpoint
    assert alive(old) == []


def the_supervisor_is_killed(service: Watched) -> None:
    """Its engine dies with it, and the next command says what happened."""
    state = service.state()
    assert state is not None
    assert state.supervisor is not None
    processes = tree(state.supervisor.pid)
    os.kill(state.supervisor.pid, signal.SIGKILL)
    eventually(lambda: not alive(processes))
    status = service.home.run("status", service.name, "--json")
    assert (status.code, status.data["state"]) == (3, "failed")
    assert status.data["failure"]["code"] == "supervisor_killed"


@pytest.mark.parametrize(
    ("role", "phase"),
    [
        pytest.param("scheduler", "loading"),
        pytest.param("front", "loading", marks=SOAK),
        pytest.param("scheduler", "verifying", marks=SOAK),
        pytest.param("front", "verifying", marks=SOAK),
    ],
)
def test_parts_killed_while_starting(service: Watched, role: str, phase: str) -> None:
    starting = service.up()
    state = service.reach(phase)
    assert state.supervisor is not None
    victim = service.part(role)
    processes = tree(state.supervisor.pid)
    assert procs.send(victim, signal.SIGKILL)
    up = finish(starting)
    assert up.code == 6, up.stdout
    assert up.data["state"] == "failed"
    assert up.document["errors"][0]["code"] == "start_failed"
    assert up.data["failure"]["failure_class"] in {"killed", "child_failed", "exited_early"}
    eventually(lambda: not alive(processes))
    assert_port_is_free(str(state.endpoint))


@pytest.mark.parametrize("phase", ["loading", pytest.param("verifying", marks=SOAK)])
def test_the_supervisor_killed_while_starting(service: Watched, phase: str) -> None:
    starting = service.up()
    state = service.reach(phase)
    the_supervisor_is_killed(service)
    up = finish(starting)
    assert (up.code, up.document["errors"][0]["code"]) == (6, "supervisor_killed")
    assert_port_is_free(str(state.endpoint))


def test_a_port_stolen_while_loading(service: Watched) -> None:
    """0.5.23 logs that it cannot bind, and then does not end: it is not waited for."""
    port = ports.pick_free("127.0.0.1")
    starting = service.up("--port", str(port))
    service.part("scheduler")
    with socket.create_server(("127.0.0.1", port)):
        service.wait_for("warming", "stopping", "failed")
        with no_hang():
            up = finish(starting)
    assert up.code == 9, up.stdout
    assert up.document["errors"][0]["code"] == "port_taken"
    assert f"process {os.getpid()}" in up.document["errors"][0]["message"]
    assert up.data["state"] == "failed"


@SOAK
def test_a_cache_that_is_too_small_serves_what_it_can(service: Watched) -> None:
    """64 tokens of KV: short texts are served, and no call hangs or ends the engine."""
    more = ("--", "--max-total-tokens", "640", "--max-running-requests", "4")
    up = finish(service.up(*more))
    if up.code != 0:
        assert up.code in {6, 7}, up.stdout
        assert up.data["state"] == "failed"
        return
    endpoint = up.data["endpoint"]
    answers: list[str] = []
    calls = [
        threading.Thread(target=lambda: answers.append(embed(endpoint, "word " * 400)))
        for _ in range(16)
    ]
    for call in calls:
        call.start()
    for call in calls:
        call.join(HANG_S)
    assert len(answers) == 16
    assert "hangs" not in answers
    assert eventually(lambda: embed(endpoint, "short") == "ok")
    service.down()


@SOAK
@pytest.mark.parametrize("fraction", ["0.0001", "3.5"])
def test_an_absurd_memory_fraction_is_a_failed_start_or_serves(
    service: Watched, fraction: str
) -> None:
    """With --max-total-tokens the fraction may not matter; without a sentence it may not fail."""
    up = finish(service.up("--", "--mem-fraction-static", fraction))
    if up.code == 0:
        service.down()
        return
    assert up.code in {2, 4, 5, 6}, up.stdout
    error = up.document["errors"][0]
    assert error["message"]
    assert "Traceback" not in error["message"]
    if up.code == 6:
        assert up.data["failure"]["failure_class"], up.stdout


@SOAK
def test_a_checkpoint_whose_weights_were_overwritten(service: Watched, tmp_path: Path) -> None:
    """The header is whole, the numbers are NaN: refused before anything starts, by its name."""
    source = next((service.home.root / "data" / "models").glob("*minilm*"))
    model = tmp_path / "broken"
    shutil.copytree(source, model)
    weights = next(model.rglob("*.safetensors"))
    (length,) = struct.unpack("<Q", weights.read_bytes()[:8])
    with weights.open("r+b") as file:
        file.seek(8 + length)
        file.write(b"\xff" * (weights.stat().st_size - 8 - length))
    up = finish(service.up("--model", str(model)))
    assert up.code == 2, up.stdout
    (error,) = up.document["errors"]
    assert error["code"] == "model_corrupt"
    assert str(weights) in error["message"]
    assert "holds NaN or infinity" in error["message"]
