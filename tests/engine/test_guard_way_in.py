"""How the guard gets into the engine: by an import, in every process, with its limits."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from launcher.documents.plan import Guard
from launcher.engine import command
from launcher.gateway import malformed
from launcher.plan import guard
from launcher.plan.resolve import make_plan
from tests.engine.guarding import Settings, idle, limits, memory, own, settings
from tests.patience import PATIENCE_S
from tests.plan.inputs import inputs

FASTAPI = """
class FastAPI:
    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
"""
ASK = """
import asyncio, json
from fastapi import FastAPI
seen = []
async def send(message): seen.append(message)
async def ask(path):
    scope = {"type": "http", "method": "GET", "path": path, "headers": []}
    await FastAPI()(scope, None, send)
for path in ("/health", "/generate"):
    asyncio.run(ask(path))
print(json.dumps([m["status"] for m in seen if "status" in m]))
"""
LIMITS = make_plan(inputs()).guard


def run(folder: Path, code: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    (folder / "fastapi").mkdir(exist_ok=True)
    (folder / "fastapi" / "__init__.py").write_text("from .applications import FastAPI\n")
    (folder / "fastapi" / "applications.py").write_text(FASTAPI)
    site = next(path for path in sys.path if path.endswith("site-packages"))
    whole = {"PATH": os.environ["PATH"], **env}
    whole["PYTHONPATH"] = f"{whole['PYTHONPATH']}:{folder}:{site}"
    return subprocess.run(
        [sys.executable, "-c", code],
        env=whole,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def guarded(**env: str) -> dict[str, str]:
    assert LIMITS is not None
    return guard.environment(LIMITS, env)


def test_an_application_is_guarded_as_soon_as_there_is_one(tmp_path: Path) -> None:
    done = run(tmp_path, ASK, guarded())
    assert done.stdout.strip() == "[200, 404]", done.stderr


def test_without_limits_in_the_environment_nothing_is_changed(tmp_path: Path) -> None:
    done = run(tmp_path, ASK, {"PYTHONPATH": str(command.GUARD)})
    assert done.stdout.strip() == "[200, 200]", done.stderr


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model": "x"}'])
def test_with_limits_that_are_none_the_engine_does_not_start(tmp_path: Path, text: str) -> None:
    done = run(tmp_path, ASK, guarded() | {guard.VARIABLE: text})
    assert done.returncode != 0
    assert done.stdout == ""


def test_other_sitecustomize_modules_on_the_path_run_too_and_once(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('another')\n")
    env = guarded(PYTHONPATH=str(command.PLUGIN), QLAUNCH_START_METHOD="auto")
    done = run(tmp_path, "import gc; print(gc.get_threshold()[0])", env)
    assert done.stdout.split() == ["another", "200000"], done.stderr


def test_every_limit_of_the_plan_reaches_the_guard() -> None:
    assert LIMITS is not None
    found = settings.read(guarded()[guard.VARIABLE])
    assert msgspec.structs.asdict(LIMITS) == vars(found)
    assert set(Guard.__struct_fields__) == set(vars(limits()))


def test_a_plan_of_another_version_is_bounded_all_the_same() -> None:
    older = {"model": "m", "vocabulary": 9, "dimensions": 4, "of_another_version": 1}
    found = settings.read(json.dumps(older))
    assert found == Settings(model="m", vocabulary=9, dimensions=4)
    assert found.inputs == 2048
    assert found.loopback is True


STORES = """
import os, socket
from datetime import timedelta
from torch.distributed import rendezvous
calls = []
def listens(host, **more):
    fd = rendezvous.TCPStore(host_name=host, port=0, timeout=timedelta(1), **more)
    return fd and socket.socket(fileno=fd).getsockname()[0]
print([listens("127.0.0.1", is_master=True), listens("localhost", is_master=True),
       listens("::1", is_master=True), listens("10.0.0.1", is_master=True),
       listens("127.0.0.1", is_master=False)])
with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]
    print(rendezvous.TCPStore(host_name="127.0.0.1", port=port, is_master=True))
"""
RENDEZVOUS = """
def TCPStore(host_name, port, is_master, timeout=None, master_listen_fd=None):
    return master_listen_fd
"""


def test_pytorchs_store_for_loopback_listens_there_only(tmp_path: Path) -> None:
    """By itself it listens on every address, and keeps what anybody sends."""
    (tmp_path / "torch" / "distributed").mkdir(parents=True)
    for folder in (tmp_path / "torch", tmp_path / "torch" / "distributed"):
        (folder / "__init__.py").write_text("")
    (tmp_path / "torch" / "distributed" / "rendezvous.py").write_text(RENDEZVOUS)
    done = run(tmp_path, STORES, guarded())
    one, another = done.stdout.splitlines()
    assert one == "['127.0.0.1', '127.0.0.1', '::1', None, None]", done.stderr
    assert another == "None", "the port is taken: PyTorch shares its store, or says so"


PROTOCOL = """
class {name}:
    def send_400_response(self, msg):
        self.transport.write(msg.encode())
"""
GARBAGE = """
from uvicorn.protocols.http import h11_impl, httptools_impl
class Transport:
    def write(self, data): print(data.decode())
    def close(self): print("closed")
for kind in (h11_impl.H11Protocol, httptools_impl.HttpToolsProtocol):
    protocol = kind()
    protocol.transport = Transport()
    protocol.send_400_response("Invalid HTTP request received.")
"""


def test_what_is_no_http_is_refused_in_json(tmp_path: Path) -> None:
    """uvicorn answers it by itself, in plain text, where a gateway answers JSON."""
    http = tmp_path / "uvicorn" / "protocols" / "http"
    http.mkdir(parents=True)
    for folder in (http, *http.parents[:2]):
        (folder / "__init__.py").write_text("")
    (http / "h11_impl.py").write_text(PROTOCOL.format(name="H11Protocol"))
    (http / "httptools_impl.py").write_text(PROTOCOL.format(name="HttpToolsProtocol"))
    done = run(tmp_path, GARBAGE, guarded())
    *answers, end = done.stdout.replace("\r\n", "\n").split("closed\n")
    assert (len(answers), end, done.stderr) == (2, "", "")
    for answer in answers:
        head, _, body = answer.rstrip("\n").partition("\n\n")
        first, *fields = head.split("\n")
        assert first == "HTTP/1.1 400 Bad Request"
        assert {f"content-length: {len(body)}", "connection: close"} < set(fields)
        assert json.loads(body)["error"] == {
            "message": malformed.TEXTS[400],
            "type": "invalid_request_error",
            "param": None,
            "code": "bad_http",
        }


def test_the_engines_own_calls_are_signed() -> None:
    class Session:
        def request(self, method: str, url: str, **kwargs: Any) -> dict[str, Any]:
            return kwargs

    own.sign(Session, "word")
    asked = Session().request
    signed = asked("POST", "http://127.0.0.1:1/freeze_gc", headers={"Authorization": "x"})
    assert signed == {"headers": {"Authorization": "x", own.HEADER: "word"}}
    assert asked("GET", "http://127.0.0.1:1/model_info") == {}


class Connection:
    """One of uvicorn's protocols, as far as it is looked at."""

    def __init__(self, complete: bool | None = None) -> None:
        self.cycle = None if complete is None else Cycle(complete)
        self.transport = self
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Cycle:
    def __init__(self, complete: bool) -> None:
        self.response_complete = complete


def test_connections_on_which_no_request_comes_are_closed() -> None:
    silent, answered, busy = Connection(), Connection(True), Connection(False)
    everyone = {silent, answered, busy}
    idle.close_idle(everyone, 0.0)
    idle.close_idle(everyone, idle.HEADER_SECONDS)
    assert not any(each.closed for each in everyone)
    answered.cycle = Cycle(True)  # another request has come and gone
    idle.close_idle(everyone, idle.HEADER_SECONDS + 1)
    assert (silent.closed, answered.closed, busy.closed) == (True, False, False)


def test_connections_without_requests_make_room_before_descriptors_run_out() -> None:
    """900 idle ones, of 300 descriptors, had the supervisor unanswered and the engine restarted."""
    first, second, answered, busy = (
        Connection(),
        Connection(),
        Connection(True),
        Connection(False),
    )
    idle.close_idle({first}, 0.0)
    idle.close_idle({second}, 1.0)
    everyone = {first, second, answered, busy}
    idle.make_room(everyone, 4, 2.0)
    assert not any(each.closed for each in everyone)
    idle.make_room(everyone, 3, 2.0)
    assert [each.closed for each in (first, second, answered, busy)] == [True, False, False, False]
    idle.make_room(everyone, 0, 3.0)
    assert [each.closed for each in (second, answered, busy)] == [True, True, False]


@pytest.mark.parametrize(
    "call",
    [{"tokens": 20_000}, {"tokens": 3000, "inputs": 1000}, {"tokens": 0, "size": 4_000_000}],
    ids=["tokens", "inputs of a word", "a body that was refused"],
)
def test_calls_that_take_much_memory_are_followed_by_giving_it_back(
    monkeypatch: pytest.MonkeyPatch, call: dict[str, int]
) -> None:
    """Twelve calls of 512 inputs of one letter left the front 88 MB larger."""
    monkeypatch.setattr(memory, "AFTER_SECONDS", 0.0)
    trimmed = asyncio.Event()

    async def run() -> None:
        kept, loop = memory.Memory(lambda: True), asyncio.get_running_loop()
        kept._trim = lambda _left: loop.call_soon_threadsafe(trimmed.set)
        kept.served(**call)
        kept.idle()
        await asyncio.wait_for(trimmed.wait(), PATIENCE_S)

    asyncio.run(run())


def test_memory_is_given_back_after_much_was_served_and_when_nothing_is_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "AFTER_SECONDS", 0.0)
    open_calls = [0]
    trims: list[int] = []

    async def run() -> None:
        kept = memory.Memory(lambda: open_calls[0] == 0)
        kept._trim = trims.append
        kept.served(memory.AFTER_TOKENS - 1)
        kept.idle()
        await asyncio.sleep(0.02)
        assert trims == []
        kept.served(1)
        open_calls[0] = 1
        kept.idle()
        await asyncio.sleep(0.02)
        assert trims == []
        open_calls[0] = 0
        kept.idle()
        await asyncio.sleep(0.02)
        kept.idle()

    asyncio.run(run())
    assert trims == [0]
