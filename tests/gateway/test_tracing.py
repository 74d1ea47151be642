"""OpenTelemetry's spans: whose they are, what they carry, and that nobody waits for a collector."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from launcher.gateway.tracing import Tracing
from tests.gateway.conftest import free_port
from tests.gateway.harness import Bench, Memory, run
from tests.gateway.test_process import Process, Spawn, ask, gateway, home, server, spawn
from tests.patience import eventually

__all__ = ["gateway", "home", "server", "spawn"]

CANARY = "wednesday's secret sentence"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def test_a_request_and_its_calls_are_one_trace_without_texts() -> None:
    exporter = InMemorySpanExporter()
    tracing = Tracing(exporter)

    async def work() -> None:
        async with Bench(Memory(), tracing=tracing) as bench:
            await bench.ask("known")
            await bench.kept()
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "r-1"}
            await bench.ask([CANARY, "known", "other"], headers=headers)
            sent = bench.server.headers[1]["traceparent"]
            bench.server.status = 500
            bench.server.error_body = CANARY
            await bench.ask(CANARY + "2")
            await bench.get("health")
            assert sent.startswith(f"00-{TRACE}-")

    run(work())
    tracing.close()
    spans = exporter.get_finished_spans()
    asked = [span for span in spans if span.name == "embeddings"]
    calls = [span for span in spans if span.name == "POST"]
    assert (len(asked), len(calls), len(spans)) == (3, 4, 7)  # what failed was tried once more
    _first, second, failed = asked
    assert second.parent is not None
    assert (f"{second.parent.trace_id:032x}", f"{second.parent.span_id:016x}") == (TRACE, PARENT)
    told = attributes(second)
    assert told["gen_ai.request.model"] == "m"
    assert told["http.response.status_code"] == 200
    assert told["qlaunch.request.id"] == "r-1"
    counts = [told[f"qlaunch.{name}"] for name in ("cache.hits", "cache.misses", "truncated")]
    assert counts == [1, 2, 0]
    for one, call in zip([*asked, failed], calls, strict=True):
        assert call.parent is not None
        assert call.parent.span_id == one.context.span_id
        assert attributes(call)["server.address"] == "127.0.0.1"
    assert attributes(failed)["http.response.status_code"] == 500
    assert not failed.status.is_ok
    assert CANARY not in " ".join(span.to_json() for span in spans)


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """Takes what is sent."""
    bodies: list[bytes] = []

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if self.path == "/v1/traces":
                bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    taker = HTTPServer(("127.0.0.1", 0), Taker)
    thread = threading.Thread(target=taker.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{taker.server_port}", bodies
    taker.shutdown()
    thread.join()
    taker.server_close()


def test_spans_reach_a_collector(
    gateway: Spawn, server: Process, collector: tuple[str, list[bytes]]
) -> None:
    url, bodies = collector
    made = gateway(f"m={server.url}", "--otlp", url)
    assert ask(made.url, ["a"]).status_code == 200
    assert made.end(signal.SIGTERM) == 0
    parsed = [ExportTraceServiceRequest.FromString(body) for body in bodies]
    names = [
        span.name
        for request in parsed
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert sorted(names) == ["POST", "embeddings"]


def test_a_collector_that_is_down_costs_nothing(gateway: Spawn, server: Process) -> None:
    made = gateway(f"m={server.url}", "--otlp", f"http://127.0.0.1:{free_port()}")
    for n in range(3):
        assert ask(made.url, [str(n)]).status_code == 200
    assert made.end(signal.SIGTERM) == 0
    eventually(lambda: not answers(made.url))


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/models", timeout=1).ok
    except requests.RequestException:
        return False


def test_without_the_package_it_says_what_to_install(home: Path) -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from launcher.cli.main import entry\nentry()"
    )
    words = ["gateway", "http://h/v1", "--port", "0", "--otlp", "http://h:4318", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        env={"QLAUNCH_HOME": str(home), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    (error,) = json.loads(done.stdout)["errors"]
    assert (done.returncode, error["code"]) == (2, "extra_missing")
    assert "qlaunch[otel]" in error["fix"]
