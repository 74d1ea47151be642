"""The gateway before an engine, supervised: the real one, before the engine that is scripted."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import threading
import urllib.parse
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import to_builtins

from launcher.config.profile import Restart
from launcher.config.service_cache import ServiceCache
from launcher.documents.plan import Plan
from launcher.documents.service_state import ServiceState
from launcher.errors import QlaunchError
from launcher.linux import processes
from launcher.linux.processes import ProcessId
from launcher.record.runs import load_run
from launcher.service import control, ports, store
from launcher.service.supervisor.gateway_process import counts, is_bypassed
from tests.cli.commandline import Run
from tests.cli.conftest import run
from tests.gateway.conftest import Start, start_cache
from tests.patience import PATIENCE_S
from tests.service.home import Home, eventually

__all__ = ["run", "start_cache"]

UNHURRIED = ServiceCache(backend="embedded", url=None, wait_ms=1000 * PATIENCE_S)
"""A read that takes longer than `wait_ms` is a miss: 5 ms are few on a busy machine."""


def plan(home: Home, *switches: str, cache: ServiceCache = UNHURRIED, **changes: Any) -> Plan:
    return home.plan(*switches, cache=cache, **changes)


def up(home: Home, *switches: str, **changes: Any) -> ServiceState:
    home.options["timing"]["gateway_beat_s"] = 0.2
    return home.up(plan(home, *switches, **changes))


def call(url: str | None, body: Any = None, **headers: str) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of `POST /v1/embeddings`, or of `GET /health` without a body."""
    parts = urllib.parse.urlsplit(url or "")
    client = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=PATIENCE_S)
    try:
        if body is None:
            client.request("GET", "/health", headers=headers)
        else:
            client.request(
                "POST",
                "/v1/embeddings",
                json.dumps(body),
                {"Content-Type": "application/json", **headers},
            )
        answer = client.getresponse()
        data = answer.read()
        return answer.status, dict(answer.headers), json.loads(data) if data else None
    finally:
        client.close()


def ask(state: ServiceState, *texts: str, **headers: str) -> tuple[dict[str, str], list[Any]]:
    status, answered, body = call(
        state.endpoint, {"model": "fake", "input": list(texts)}, **headers
    )
    assert status == 200, body
    return answered, [row["embedding"] for row in body["data"]]


def page(state: ServiceState) -> bytes:
    """The gateway's own `/metrics`."""
    parts = urllib.parse.urlsplit(state.endpoint or "")
    client = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=PATIENCE_S)
    try:
        client.request("GET", "/metrics")
        return client.getresponse().read()
    finally:
        client.close()


def ask_and_keep(state: ServiceState, *texts: str) -> None:
    """Ask, and wait until the vectors are written: what is not yet is lost with the gateway."""
    for text in texts:
        ask(state, text)
    written = f'qlaunch_gateway_cache_total{{event="written"}} {1 + len(texts)}.0'
    eventually(lambda: written.encode() in page(state))


def is_kept(state: ServiceState, *texts: str) -> bool:
    """Whether all of them come from the cache."""
    return ask(state, *texts)[0]["X-Cache-Hits"] == str(len(texts))


def kill(process: ProcessId | None, number: int = signal.SIGKILL) -> None:
    assert process is not None
    assert processes.send(process, number)


def gateway(state: ServiceState) -> ProcessId:
    assert state.gateway is not None
    assert state.gateway.process is not None
    return state.gateway.process


def again(before: ServiceState) -> ServiceState:
    """The state once another gateway was proved."""

    def other() -> ServiceState | None:
        now = control.status("svc")
        up_again = now.state == "ready" and now.gateway is not None and now.gateway.process
        return now if up_again and gateway(now) != gateway(before) else None

    state: ServiceState = eventually(other)
    return state


def test_the_gateway_has_the_services_address_and_the_engine_one_of_its_own(home: Home) -> None:
    state = up(home)
    assert state.state == "ready"
    assert state.endpoint == f"http://127.0.0.1:{min(home.ports)}/v1"
    assert state.engine_endpoint not in {None, state.endpoint}
    _, direct, body = call(state.engine_endpoint, {"model": "fake", "input": ["a"]})
    assert "X-Cache-Hits" not in direct
    first, vectors = ask(state, "a")
    second, same = ask(state, "a")
    assert (first["X-Cache-Hits"], second["X-Cache-Hits"]) == ("0", "1")
    assert vectors == same
    assert vectors[0] == pytest.approx(body["data"][0]["embedding"], abs=1e-6)
    assert processes.is_alive(gateway(state))
    members = store.read_tree(store.folder("svc"))
    assert gateway(state) in members


def test_hits_are_counted_in_status_and_record_and_our_own_calls_are_not(home: Home) -> None:
    state = up(home)
    ask(state, "a", "b")
    ask(state, "a", "b", "c")

    def counted() -> ServiceState | None:
        now = control.status("svc")
        return now if now.gateway and now.gateway.use.inputs >= 5 else None

    now: ServiceState = eventually(counted)
    assert now.gateway is not None
    assert (now.gateway.use.inputs, now.gateway.use.hits) == (5, 2)
    data = to_builtins(control.status_of(now))
    assert data["gateway"]["hit_rate"] == 0.4
    assert data["gateway"]["pid"] == gateway(now).pid
    control.down("svc")
    run = load_run(home.root / "state" / "runs", now.run)
    assert run.cache is not None
    assert (run.cache.inputs, run.cache.hits, run.cache.restarts) == (5, 2, 0)


def test_a_request_past_the_cache_reaches_the_engine(home: Home, tmp_path: Path) -> None:
    other = tmp_path / "other"
    state = up(home, "--other-vectors", str(other))
    ask(state, "a")
    other.write_text("once slight")
    answered, _ = ask(state, "a", "a", **{"Cache-Control": "no-store"})
    assert answered["X-Cache-Hits"] == "0"
    assert answered["X-Cache-Misses"] == "2"
    assert not other.exists()


def test_a_killed_gateway_starts_again_and_the_engine_stays(home: Home) -> None:
    before = up(home)
    ask_and_keep(before, *"ab")
    kill(gateway(before))
    now = again(before)
    assert now.engine == before.engine
    assert now.restarts == 0
    assert now.gateway is not None
    assert now.gateway.use.restarts == 1
    assert now.gateway.problem is None
    assert "degraded" in [phase.name for phase in now.phases]
    assert is_kept(now, *"ab")


def test_a_stopped_gateway_is_noticed_and_replaced(home: Home) -> None:
    home.options["timing"]["gateway_timeout_s"] = 2.0
    before = up(home)
    kill(gateway(before), signal.SIGSTOP)
    now = again(before)
    assert now.engine == before.engine
    assert not processes.is_alive(gateway(before))


def test_a_gateway_that_dies_again_and_again_is_given_up(home: Home) -> None:
    before = up(home, restart=Restart(max_attempts=0))
    kill(gateway(before))
    state = home.wait_for("failed")
    assert state.failure is not None
    assert "the gateway ended with signal 9 (SIGKILL)" in state.failure.message
    assert state.failure.exit_code == 6
    assert not processes.is_alive(before.engine)


def test_a_killed_engine_gets_a_new_gateway(home: Home) -> None:
    before = up(home)
    ask_and_keep(before, *"ab")
    kill(before.engine)
    now = again(before)
    assert now.engine != before.engine
    assert now.restarts == 1
    assert now.endpoint == before.endpoint
    assert not processes.is_alive(gateway(before))
    assert is_kept(now, *"ab")


def test_a_killed_supervisor_takes_the_gateway_with_it(home: Home) -> None:
    state = up(home)
    kill(state.supervisor)
    eventually(lambda: not processes.is_alive(gateway(state)))
    assert control.status("svc").state == "failed"


def test_down_ends_a_stopped_gateway(home: Home) -> None:
    state = up(home)
    kill(gateway(state), signal.SIGSTOP)
    assert control.down("svc").left == ()
    assert not processes.is_alive(gateway(state))


def test_down_under_load_finishes_what_is_under_way(home: Home, tmp_path: Path) -> None:
    hang = tmp_path / "hang"
    home.options["timing"]["beat_s"] = 600.0
    home.options["timing"]["drain_s"] = home.options["patience"]["grace_s"] = PATIENCE_S
    state = up(home, "--hang-flag", str(hang))
    hang.touch()
    answers: list[int] = []
    asking = [
        threading.Thread(
            target=lambda n=n: answers.append(
                call(state.endpoint, {"model": "fake", "input": [f"text {n}"]})[0]
            )
        )
        for n in range(3)
    ]
    for each in asking:
        each.start()
    open_calls = b'qlaunch_gateway_open_calls{model="fake",server="svc"} 3.0'
    eventually(lambda: open_calls in page(state))
    kill(state.supervisor, signal.SIGTERM)
    home.wait_for("stopping")
    hang.unlink()
    for each in asking:
        each.join(PATIENCE_S)
    assert answers == [200, 200, 200]
    home.wait_for("stopped")


def test_the_services_port_may_be_taken(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wanted = plan(home, port=taken.getsockname()[1])
        home.ports.clear()
        with pytest.raises(QlaunchError) as caught:
            home.up(wanted)
    assert (caught.value.code, caught.value.exit_code) == ("port_taken", 9)


def test_an_engines_port_that_was_taken_between_two_lives_is_another_one(home: Home) -> None:
    before = up(home, restart=Restart(max_attempts=2, backoff_initial_s=1.0))
    port = urllib.parse.urlsplit(before.engine_endpoint or "").port
    assert port
    kill(before.engine)
    eventually(lambda: ports.owner_pids(port) == [])
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        now = again(before)
    assert now.engine_endpoint != before.engine_endpoint
    assert now.endpoint == before.endpoint
    assert ask(now, "a")


def test_a_redis_that_is_down_is_a_warning_and_no_failure(home: Home) -> None:
    port = ports.pick_free("127.0.0.1")
    down = ServiceCache(backend="redis", url=f"redis://127.0.0.1:{port}/0")
    state = up(home, cache=down)
    assert state.state == "ready"
    assert state.gateway is not None
    assert state.gateway.bypassed
    assert "cannot be asked" in (state.gateway.problem or "")
    assert ask(state, "a")[0]["X-Cache-Hits"] == "0"


def test_a_redis_that_dies_is_gone_past_and_used_again(home: Home, start_cache: Start) -> None:
    server = start_cache("redis")
    state = up(
        home,
        cache=msgspec.structs.replace(
            UNHURRIED, backend="redis", url=f"{server.url}/0", memory_bytes=0
        ),
    )
    ask_and_keep(state, "a")
    eventually(lambda: ask(state, "a")[0]["X-Cache-Hits"] == "1")
    server.process.kill()
    server.process.wait()

    def told(bypassed: bool) -> bool:
        ask(state, "a")  # answered all the same
        now = control.status("svc")
        assert now.state == "ready"
        assert now.gateway is not None
        return now.gateway.bypassed is bypassed and bool(now.gateway.problem) is bypassed

    eventually(lambda: told(True))
    start_cache("redis", port=server.port)
    eventually(lambda: told(False))
    eventually(lambda: ask(state, "a")[0]["X-Cache-Hits"] == "1")


def test_a_killed_engine_under_load_is_never_a_wrong_vector(home: Home) -> None:
    """Errors for what was in flight and until it is back; every vector that comes is right."""
    before = up(home)
    right = {str(n): ask(before, str(n))[1][0] for n in range(8)}
    wrong: list[str] = []
    ended = threading.Event()

    def load() -> None:
        while not ended.is_set():
            for text, vector in right.items():
                try:
                    status, _, body = call(before.endpoint, {"model": "fake", "input": [text, "x"]})
                except (OSError, http.client.HTTPException):
                    continue
                if status == 200 and body["data"][0]["embedding"] != pytest.approx(vector):
                    wrong.append(text)

    clients = [threading.Thread(target=load) for _ in range(2)]
    for each in clients:
        each.start()
    try:
        kill(before.engine)
        now = again(before)
        kill(gateway(now))
        again(now)
    finally:
        ended.set()
        for each in clients:
            each.join(PATIENCE_S)
    assert wrong == []


def test_a_purge_is_of_the_services_own_cache(home: Home, tmp_path: Path, run: Run) -> None:
    own = msgspec.structs.replace(UNHURRIED, url=str(tmp_path / "own" / "v.db"), memory_bytes=0)
    state = up(home, cache=own)
    ask_and_keep(state, "a")
    assert run("cache", "stats", "--service", "svc", "--json").data["entries"] == 2
    purged = run("cache", "purge", "--service", "svc", "--json")
    assert purged.code == 0, purged.out
    assert purged.data["removed"] == 2
    assert ask(state, "a")[0]["X-Cache-Hits"] == "0"
    texts = tmp_path / "texts.txt"
    texts.write_text("one\ntwo\n")
    warmed = run("cache", "warm", str(texts), "--service", "svc", "--json")
    assert warmed.data == {"texts": 2, "hits": 0, "made": 2}
    assert ask(state, "one", "two")[0]["X-Cache-Hits"] == "2"


def test_a_service_without_a_cache_cannot_be_warmed(home: Home, tmp_path: Path, run: Run) -> None:
    home.up(home.plan())
    texts = tmp_path / "texts.txt"
    texts.write_text("one\n")
    answer = run("cache", "warm", str(texts), "--service", "svc", "--json")
    assert (answer.code, answer.error["code"]) == (2, "no_cache")


def test_a_file_that_cannot_be_used_is_a_warning_and_no_failure(home: Home, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    state = up(home, cache=ServiceCache(backend="embedded", url=str(blocked)))
    assert state.gateway is not None
    assert "nothing is kept" in (state.gateway.problem or "")
    assert ask(state, "a")[0]["X-Cache-Hits"] == "0"


def test_the_key_is_asked_for_at_the_gateway_and_given_to_the_engine(
    home: Home, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text("a-key-of-some-length\n")
    file.chmod(0o600)
    state = up(home, "--print-key", api_key_file=str(file))
    status, _, body = call(state.endpoint, {"model": "fake", "input": ["a"]})
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    assert ask(state, "a", Authorization="Bearer a-key-of-some-length")
    words = Path(f"/proc/{gateway(state).pid}/cmdline").read_bytes()
    env = Path(f"/proc/{gateway(state).pid}/environ").read_bytes()
    assert b"a-key" not in words + env


def test_another_vector_through_the_gateway_is_no_start(home: Home, tmp_path: Path) -> None:
    """A cache that lies cannot be told from here by anything but the vector that was proved."""
    liar = tmp_path / "liar.py"
    liar.write_text(LIAR)
    home.options["gateway"] = ["-S", str(liar)]
    with pytest.raises(QlaunchError) as caught:
        up(home)
    assert (caught.value.code, caught.value.exit_code) == ("smoke_failed", 7)
    assert "through the gateway" in caught.value.message


LIAR = """
import http.server, json, sys
asked = json.loads(sys.stdin.readline())

class Handler(http.server.BaseHTTPRequestHandler):
    def say(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.say({})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.say({"data": [{"index": 0, "embedding": [1.0] + [0.0] * 7}]})

    def log_message(self, *_):
        pass

server = http.server.HTTPServer(("127.0.0.1", asked["port"]), Handler)
print(json.dumps({"event": "listening", "problem": None}), flush=True)
server.serve_forever()
"""


def test_a_gateway_that_cannot_start_says_why(home: Home) -> None:
    bad = ServiceCache(backend="embedded", url=None, key_file=str(home.root))
    with pytest.raises(QlaunchError) as caught:
        up(home, cache=bad)
    assert "the gateway does not start: the cache's key" in caught.value.message
    assert caught.value.exit_code == 1


def test_counts_of_a_page() -> None:
    page = (
        b'qlaunch_gateway_inputs_total{model="m",source="cache"} 3.0\n'
        b'qlaunch_gateway_inputs_total{model="n",source="cache"} 1e+03\n'
        b'qlaunch_gateway_inputs_total{model="m",source="server"} 2.0\n'
        b'qlaunch_gateway_inputs_total{model="m",source="shared"} 1.0\n'
        b'qlaunch_gateway_inputs_created{model="m",source="shared"} 17.0\n'
        b"qlaunch_gateway_cache_bypassed 1.0\n"
    )
    use = counts(page)
    assert (use.inputs, use.hits, use.shared) == (1006, 1003, 1)
    assert is_bypassed(page)
    assert not is_bypassed(page.replace(b"1.0\n", b"0.0\n"))
    assert msgspec.structs.asdict(counts(b"")) == {
        "inputs": 0,
        "hits": 0,
        "shared": 0,
        "restarts": 0,
    }
