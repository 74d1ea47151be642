"""The supervisor's `/metrics`: right, on loopback alone, and in nobody's way."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import to_builtins
from prometheus_client.parser import text_string_to_metric_families

from launcher.documents.plan import MemoryPrediction
from launcher.documents.run import ProcessSample, Sample, Timings
from launcher.documents.service_state import LastCheck, ReplicaState, ServiceState
from launcher.documents.smoke import SmokeReport
from launcher.linux.processes import ProcessId
from launcher.service import control
from launcher.service.supervisor import metrics_server
from launcher.service.supervisor.batch_counter import BatchCounter
from launcher.service.supervisor.event_loop import Loop
from launcher.service.supervisor.metrics_server import Scrape
from launcher.service.supervisor.metrics_text import METRICS, Facts, exposition
from tests.patience import PATIENCE_S
from tests.service.home import Home, eventually

ROOT = Path(__file__).parents[2]


def parsed(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """What Prometheus's own parser reads, by sample name; types and help are held to the table."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            kind, documentation = METRICS[sample.name]
            assert (family.type, family.documentation) == (kind, documentation)
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def state(**changes: Any) -> ServiceState:
    values: dict[str, Any] = {
        "version": 1,
        "service": "svc",
        "profile": "p",
        "state": "ready",
        "since": "",
        "run": "r",
        "endpoint": None,
        "supervisor": None,
        "engine": ProcessId(pid=2, start_ticks=1, boot_id="b"),
        "predicted": MemoryPrediction(ram_bytes=1000, gpu_bytes=None),
        "timings": Timings(ready_s=1.5),
    }
    return ServiceState(**values | changes)


def sample(**changes: Any) -> Sample:
    processes = [
        ProcessSample(pid=n, role=role, ram_bytes=used, cpu_percent=1.0, gpu_bytes=None)
        for n, (role, used) in enumerate([("front", 10), ("scheduler", 20), ("scheduler", 5)])
    ]
    values: dict[str, Any] = {
        "t_s": 1.0,
        "ram_bytes": 35,
        "ram_method": "pss",
        "cpu_percent": 50.0,
        "gpu_bytes": None,
        "gpu_method": "unavailable",
        "processes": tuple(processes),
    }
    return Sample(**values | changes)


def test_what_is_measured_is_there_and_what_is_not_is_absent() -> None:
    found = parsed(exposition(Facts(state=state(), model="m", sample=sample())))
    common = {"service": "svc", "profile": "p", "model": "m"}
    assert found["qlaunch_up"] == [(common, 1)]
    assert found["qlaunch_start_seconds"] == [(common, 1.5)]
    assert {labels["process"]: value for labels, value in found["qlaunch_ram_bytes"]} == {
        "front": 10,
        "scheduler": 25,
    }
    assert [(labels["device"], v) for labels, v in found["qlaunch_predicted_memory_bytes"]] == [
        ("ram", 1000)
    ]
    assert [labels["state"] for labels, value in found["qlaunch_state"] if value] == ["ready"]
    absent = METRICS.keys() - found.keys()
    assert absent == {
        "qlaunch_replicas",
        "qlaunch_verified_seconds",
        "qlaunch_smoke_success",
        "qlaunch_smoke_cosine_min",
        "qlaunch_check_latency_seconds",
        "qlaunch_gpu_memory_used_bytes",
        "qlaunch_texts_total",
        "qlaunch_tokens_total",
        "qlaunch_queue_requests",
    }


def test_everything_known() -> None:
    facts = Facts(
        state=state(
            smoke=SmokeReport(ok=True, checks=(), worst_cosine=0.5),
            timings=Timings(ready_s=1.0, verified_s=2.0),
            last_check=LastCheck(latency_ms=12.0),
            predicted=MemoryPrediction(ram_bytes=1, gpu_bytes=2),
        ),
        model="m",
        sample=sample(gpu_bytes=7, gpu_method="device_delta"),
        traffic=BatchCounter(texts=3, tokens=4, batches=1, queue=0),
    )
    found = parsed(exposition(facts))
    assert found.keys() == METRICS.keys() - {"qlaunch_replicas"}  # it is no set
    [(labels, value)] = found["qlaunch_gpu_memory_used_bytes"]
    assert (labels["method"], value) == ("device_delta", 7)
    assert found["qlaunch_check_latency_seconds"][0][1] == 0.012
    assert found["qlaunch_queue_requests"][0][1] == 0


def test_a_gpu_that_is_lost_is_absent_and_a_dead_engine_is_down() -> None:
    lost = sample(ram_bytes=None, ram_method="unavailable", gpu_bytes=None)
    found = parsed(
        exposition(Facts(state=state(engine=None, state="backoff"), model="m", sample=lost))
    )
    assert "qlaunch_ram_bytes" not in found
    assert "qlaunch_gpu_memory_used_bytes" not in found
    assert found["qlaunch_up"][0][1] == found["qlaunch_ready"][0][1] == 0


@pytest.mark.parametrize("name", ['<script>"x"', "back\\slash", "two\nlines", "ünïcode"])
def test_label_values_survive(name: str) -> None:
    found = parsed(exposition(Facts(state=state(profile=name), model=name)))
    assert found["qlaunch_up"][0][0] == {"service": "svc", "profile": name, "model": name}


def test_traffic_reads_the_log_lines_of_old_and_new_engines() -> None:
    traffic = BatchCounter()
    new = "[x] Prefill batch, #new-seq: 15, #new-token: 1813, #cached-token: 0, token usage: 0.00, "
    assert traffic.read(new + "#running-req: 0, #queue-req: 7, #pending-token: 0")
    assert (traffic.texts, traffic.tokens, traffic.queue) == (15, 1813, 7)
    assert traffic.read("Prefill batch. #new-seq: 2, #new-token: 9, #cached-token: 0, token usage")
    assert (traffic.texts, traffic.queue, traffic.batches) == (17, None, 2)
    assert traffic.read("Prefill batch [12], #new-seq: 1, #new-token: 3, #queue-req: 0, x")
    assert (traffic.texts, traffic.queue) == (18, 0)
    assert not traffic.read("Prefill batch, #new-seq: 1, #new-token: 1, #queue-req: 0")
    assert not traffic.read("Prefill batch, and nothing else")
    assert traffic.texts == 18


# The server ---------------------------------------------------------------------------------------


class Served:
    """A Scrape whose loop is turned by hand."""

    def __init__(self, text: str = "x 1\n", host: str = "127.0.0.1") -> None:
        self.loop = Loop()
        self.scrape = Scrape(self.loop, 0, lambda: text, host)
        self.port = int(self.scrape.url.split(":")[2].partition("/")[0])

    def turn(self, seconds: float = 0.1) -> int:
        """Let the loop work for a moment; how often it turned."""
        over: list[int] = []
        self.loop.call_later(seconds, lambda: over.append(1))
        turns = 0
        while not over:
            self.loop.turn()
            turns += 1
        return turns

    def connect(self) -> socket.socket:
        link = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        link.setblocking(False)
        return link

    def ask(self, request: bytes) -> bytes:
        with contextlib.closing(self.connect()) as link:
            link.send(request)
            self.turn()
            return self.read(link)

    @staticmethod
    def read(link: socket.socket) -> bytes:
        data = b""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while piece := link.recv(65536):
                data += piece
        return data


@pytest.fixture
def served() -> Iterator[Served]:
    found = Served()
    yield found
    found.scrape.close()
    found.loop.close()


def test_it_listens_on_loopback_alone(served: Served) -> None:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    local = [row[1] for row in rows if row[3] == "0A" and row[1].endswith(f":{served.port:04X}")]
    assert local == [f"0100007F:{served.port:04X}"]
    assert not Path("/proc/net/tcp6").read_text().count(f":{served.port:04X} 00000000000000000000")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", b"200"),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", b"200"),
        (b"HEAD /metrics HTTP/1.1\r\nHost: 127.0.0.1:9\r\n\r\n", b"200"),
        (b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"403"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"\x16\x03\x01\r\n\r\n", b"400"),
        (b"GET " + b"/" * 9000, b"431"),
    ],
)
def test_answers(served: Served, request_: bytes, status: bytes) -> None:
    answer = served.ask(request_)
    assert answer.startswith(b"HTTP/1.1 " + status)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Connection: close" in head
    assert (body == b"x 1\n") == (status == b"200" and not request_.startswith(b"HEAD"))


def test_beyond_loopback_any_name_of_this_machine_will_do() -> None:
    """A scraper in a cluster asks by the pod's address; which names that has, nobody knows here."""
    wide = Served(host="0.0.0.0")
    try:
        assert wide.scrape.url == f"http://127.0.0.1:{wide.port}/metrics"
        answer = wide.ask(b"GET /metrics HTTP/1.1\r\nHost: 10.1.2.3:9131\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")
    finally:
        wide.scrape.close()
        wide.loop.close()


def test_slow_silent_and_many_clients_end_by_their_deadline(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_server, "DEADLINE_S", 0.2)
    links = [served.connect() for _ in range(metrics_server.CONNECTIONS + 4)]
    for link in links[::2]:
        link.send(b"GET /met")
    served.turn(0.1)
    assert len(served.scrape._open) == metrics_server.CONNECTIONS
    assert served.turn(0.8) < 100, "the loop was spinning"
    assert not served.scrape._open
    for link in links:
        link.close()
    assert served.ask(b"GET /metrics HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_a_client_that_reads_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "DEADLINE_S", 3.0)
    served = Served("x" * 8_000_000)
    link = served.connect()
    link.send(b"GET /metrics HTTP/1.0\r\n\r\n")
    served.turn(0.1)
    assert served.scrape._open
    served.turn(3.0)
    assert not served.scrape._open
    link.close()
    served.scrape.close()
    served.loop.close()


def test_no_descriptor_left(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "RETRY_S", 0.1)
    real = served.scrape._socket

    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def accept(self) -> Any:
            raise OSError(24, "Too many open files")

    served.scrape._socket = Full()  # type: ignore[assignment]
    link = served.connect()
    served.turn(0.05)
    served.scrape._socket = real
    link.send(b"GET /metrics HTTP/1.0\r\n\r\n")
    served.turn(0.3)
    assert served.read(link).startswith(b"HTTP/1.1 200")
    link.close()


# A whole service ----------------------------------------------------------------------------------


def scraped(found: ServiceState) -> dict[str, list[tuple[dict[str, str], float]]]:
    assert found.metrics is not None
    assert found.metrics.url is not None
    port = int(found.metrics.url.split(":")[2].partition("/")[0])
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    link.request("GET", "/metrics")
    answer = link.getresponse()
    assert answer.status == 200
    text = answer.read().decode()
    link.close()
    return parsed(text)


def test_a_service_is_scraped(home: Home) -> None:
    up = home.up(home.plan("--workers", metrics_port=0))
    found = scraped(up)
    assert found["qlaunch_up"][0][1] == found["qlaunch_ready"][0][1] == 1
    assert found["qlaunch_smoke_success"][0][1] == 1
    assert {labels["process"] for labels, _ in found["qlaunch_ram_bytes"]} >= {"front"}
    assert found["qlaunch_verified_seconds"][0][1] > 0
    data = to_builtins(control.status_of(up))
    assert data["metrics"]["url"].startswith("http://127.0.0.1:")
    down = control.down("svc").state
    assert down is not None
    assert to_builtins(control.status_of(down))["metrics"] is None
    port = int(data["metrics"]["url"].split(":")[2].partition("/")[0])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)


def test_restarts_are_counted_and_the_port_stays(home: Home, tmp_path: Path) -> None:
    plan = home.plan("--die-once", str(tmp_path / "died"), metrics_port=0)
    up = home.up(plan)
    again = eventually(lambda: (s := home.state()) and s.restarts and s.state == "ready" and s)
    assert again.metrics == up.metrics
    assert scraped(again)["qlaunch_restarts_total"][0][1] == 1


def test_a_taken_port_is_told_and_the_service_serves(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        up = home.up(home.plan(metrics_port=taken.getsockname()[1]))
    assert up.state == "ready"
    assert up.metrics is not None
    assert up.metrics.url is None
    assert "in use" in (up.metrics.problem or "")


def test_off_unless_asked_for(home: Home) -> None:
    up = home.up(home.plan())
    assert up.metrics is None
    assert msgspec.json.decode(msgspec.json.encode(control.status_of(up)))["metrics"] is None


# The dashboard ------------------------------------------------------------------------------------


def test_the_dashboard_uses_these_names_and_all_of_them() -> None:
    dashboard = json.loads((ROOT / "docs" / "grafana" / "qlaunch.json").read_text("utf-8"))
    expressions = " ".join(
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())
    )
    queries = " ".join(v["query"] for v in dashboard["templating"]["list"] if "query" in v)
    used = set(re.findall(r"\bqlaunch_[a-z_]+", expressions + " " + queries))
    assert used == set(METRICS)
    assert "qlaunch_" not in " ".join(re.findall(r'"uid": ?"[^"]*"', json.dumps(dashboard)))


def test_the_documentation_names_every_metric() -> None:
    text = (ROOT / "docs" / "reports.md").read_text("utf-8")
    assert set(re.findall(r"\bqlaunch_[a-z_]+", text)) >= set(METRICS)


def test_a_set_is_up_by_its_supervisor_and_counts_its_replicas() -> None:
    supervisor = ProcessId(pid=3, start_ticks=1, boot_id="b")
    replicas = (
        ReplicaState(service="svc.1", state="ready", serving=True),
        ReplicaState(service="svc.2", state="loading", serving=False),
    )
    found = state(engine=None, supervisor=supervisor, replicas=replicas)
    lines = parsed(exposition(Facts(state=found, model="m")))
    assert lines["qlaunch_up"][0][1] == 1
    assert {labels["state"]: count for labels, count in lines["qlaunch_replicas"]} == {
        "serving": 1,
        "missing": 1,
    }
    assert "qlaunch_replicas" not in parsed(exposition(Facts(state=state(), model="m")))
