"""The dashboard's queries, asked of a real Prometheus that reads a running service's metrics.

The service runs the fake engine on a machine without a GPU, which logs no batches: what only a GPU
or traffic has is read from a page beside it, written by the same code for a state that has it all.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from launcher.documents.plan import MemoryPrediction
from launcher.documents.run import Timings
from launcher.documents.service_state import LastCheck, ReplicaState
from launcher.documents.smoke import SmokeReport
from launcher.linux.processes import ProcessId
from launcher.service import ports
from launcher.service.supervisor.batch_counter import BatchCounter
from launcher.service.supervisor.metrics_text import CONTENT_TYPE, Facts, exposition
from tests.patience import HANG_S, PATIENCE_S, eventually
from tests.service.home import Home
from tests.service.test_metrics import sample, state

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "docs" / "grafana" / "qlaunch.json").read_text("utf-8"))
PANELS = {
    f"{panel['title']} {at}": target["expr"]
    for panel in DASHBOARD["panels"]
    for at, target in enumerate(panel.get("targets", ()))
}
OF_SERVICE = {"qlaunch_up", "qlaunch_ready", "qlaunch_state", "qlaunch_smoke_success"}
"""What a service with any engine has."""


def program() -> str:
    """Prometheus, installed where it may be."""
    if shutil.which("prometheus") is None:
        script = ROOT / "scripts" / "debian-packages"
        subprocess.run([str(script), "prometheus"], capture_output=True, check=False)
    found = shutil.which("prometheus")
    if found is None:
        pytest.skip("prometheus (Debian package) is not there")
    return found


def everything() -> str:
    """A page of a set of replicas with a GPU, traffic and a reference."""
    supervisor = ProcessId(pid=3, start_ticks=1, boot_id="b")
    return exposition(
        Facts(
            state=state(
                service="card",
                supervisor=supervisor,
                replicas=(ReplicaState(service="card.1", state="ready", serving=True),),
                smoke=SmokeReport(ok=True, checks=(), worst_cosine=0.9999),
                timings=Timings(ready_s=1.0, verified_s=2.0),
                last_check=LastCheck(latency_ms=12.0),
                predicted=MemoryPrediction(ram_bytes=1, gpu_bytes=2),
            ),
            model="m",
            sample=sample(gpu_bytes=7, gpu_method="device_delta"),
            traffic=BatchCounter(texts=3, tokens=4, batches=1, queue=0),
        )
    )


@contextlib.contextmanager
def page(text: str) -> Iterator[str]:
    """`HOST:PORT` of a page of metrics."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.end_headers()
            self.wfile.write(text.encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class Prometheus:
    """A server that answers."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"
        self._session = requests.Session()
        self._session.trust_env = False

    def ask(self, path: str, **params: str) -> Any:
        """The data of a successful answer; None while it does not listen."""
        try:
            answer = self._session.get(f"{self._url}/{path}", params=params, timeout=PATIENCE_S)
        except requests.ConnectionError:
            return None
        if answer.status_code == 503:  # it listens, and reads its own files still
            return None
        document = answer.json()
        assert document["status"] == "success", f"{params}: {document.get('error')}"
        return document["data"]

    def services(self, query: str) -> set[str]:
        """Services of which a query finds something now."""
        data = self.ask("query", query=query)
        return set() if data is None else {each["metric"]["service"] for each in data["result"]}

    def close(self) -> None:
        self._session.close()


@contextlib.contextmanager
def prometheus(folder: Path, *targets: str) -> Iterator[Prometheus]:
    """A Prometheus of its own, which reads these pages every second."""
    port = ports.pick_free("127.0.0.1")
    config = folder / "prometheus.yml"
    job = {"job_name": "qlaunch", "static_configs": [{"targets": targets}]}
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}))
    argv = [program(), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    argv += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    log = folder / "prometheus.log"
    asked = Prometheus(port)
    with log.open("wb") as out, subprocess.Popen(argv, stdout=out, stderr=out) as process:
        try:
            yield asked
        finally:
            asked.close()
            process.terminate()
    assert process.returncode in (0, -15), log.read_text()


def finds(asked: Prometheus, query: str, wanted: set[str]) -> bool:
    return asked.services(query) >= wanted


def test_every_panel_of_the_dashboard_has_series(home: Home, tmp_path: Path) -> None:
    found = home.up(home.plan(metrics_port=0))
    assert found.metrics is not None
    assert found.metrics.url is not None
    own = found.metrics.url.removeprefix("http://").removesuffix("/metrics")
    with page(everything()) as other, prometheus(tmp_path, own, other) as asked:
        eventually(lambda: asked.services("qlaunch_up") == {"card", "svc"}, HANG_S)
        services = asked.ask("label/service/values", **{"match[]": "qlaunch_up"})
        assert services == ["card", "svc"]  # the dashboard's choice
        with pytest.raises(AssertionError, match="parse error"):
            asked.services("rate(qlaunch_up")
        for title, expression in PANELS.items():
            query = expression.replace("$service", ".*")
            assert "$" not in query, f"{title}: {query} has a variable that nobody sets here"
            of = set(re.findall(r"qlaunch_\w+", query))
            wanted = {"card", "svc"} if of & OF_SERVICE else {"card"}
            # A rate begins with the second reading.
            eventually(functools.partial(finds, asked, query, wanted), HANG_S)
            assert asked.services(expression.replace("$service", "svc|none")) <= {"svc"}
