"""What the long run of the gateway looks at, on made-up courses and a scripted gateway."""

from __future__ import annotations

import base64
import os
import threading
from array import array
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks import gateway_soak
from benchmarks.errors import BenchError
from benchmarks.figures import Report
from benchmarks.gateway_soak import Client, Seen, asking, cache_counts, look, report, rows, thinned
from benchmarks.table import RESULTS
from launcher.gateway.metrics import Metrics
from launcher.gateway.store import Store
from tests.gateway.harness import SECRET, Memory
from tests.patience import eventually

ROOT = Path(__file__).parents[2]
LOOKS = round(gateway_soak.LEAST_S / gateway_soak.LOOK_S)
COUNTS = {"failed": 0, "corrupt": 0, "dropped": 0, "written": 900, "bypassed": 3}


def course(memory: Any = 60e6, **changed: Any) -> Seen:
    """A run of the least length that is judged, as it should be but for what is `changed`."""
    values: dict[str, Any] = {
        "inputs": 1000,
        "hits": 890,
        "requests": 250,
        "memory": [memory(n) if callable(memory) else memory for n in range(LOOKS)],
        "files": [30] * LOOKS,
        "store": [20_000_000] * LOOKS,
        "counts": COUNTS,
        "version": "0",
    }
    return Seen(**(values | changed))


def missed(seen: Seen) -> list[str]:
    return [row.name for row in rows(seen) if row.ok is False]


def test_a_flat_course_is_all_right() -> None:
    assert missed(course()) == []
    assert missed(course(memory=lambda n: 60e6 + 2e6 * (n % 7))) == []  # up and down


@pytest.mark.parametrize(
    ("seen", "name"),
    [
        (course(memory=lambda n: 60e6 + 1e5 * n), "memory, second half: median"),
        (course(files=[*range(LOOKS)]), "open files at the end"),
        (course(store=[20_000_000] * 9 + [40_000_000]), "store, at most"),
        (course(counts=COUNTS | {"dropped": 1}), "entries that failed, were damaged or not kept"),
        (course(hits=700), "of the texts, from the cache"),
        (course(problems=["a vector is another"]), "errors and wrong vectors"),
    ],
)
def test_each_fault_fails_the_run(seen: Seen, name: str) -> None:
    assert missed(seen) == [name]


def test_a_short_run_is_no_record_and_not_judged_by_its_memory() -> None:
    seen = course(memory=lambda n: 60e6 + 1e6 * n)
    seen.memory = seen.memory[: LOOKS // 2]
    assert missed(seen) == []
    facts: dict[str, Any] = {}
    assert report(seen, 2.0, 40.0, facts).quick
    assert not report(seen, 30.0, 40.0, facts).quick


def test_nothing_seen_is_an_error_and_no_record() -> None:
    with pytest.raises(BenchError, match="too short"):
        rows(Seen(inputs=1, memory=[60e6]))
    with pytest.raises(BenchError, match="refused"):
        rows(course(inputs=0, problems=["refused"]))


def test_a_course_is_thinned_to_what_a_record_keeps() -> None:
    assert thinned([1e6 * n for n in range(600)])[:3] == [4.5, 14.5, 24.5]
    assert thinned([2e6]) == [2.0]


def vector(*numbers: float) -> str:
    return base64.b64encode(array("f", numbers).tobytes()).decode()


def test_a_wrong_vector_and_whatever_ends_a_client_are_noted() -> None:
    seen = Seen()
    known = {f"text {n}": vector(1.0, 0.0) for n in range(5)}

    def wrong(texts: list[str]) -> tuple[float, list[Any], int]:
        if seen.requests == 50:
            raise KeyError("data")
        return 1.0, [vector(0.0, 1.0) for _ in texts], len(texts)

    with asking([Client(wrong, known, seen, 0)]) as alive:
        eventually(lambda: not alive())
    assert seen.problems[0] == "a vector is another than the first one of its text"
    assert len(seen.problems) == 20  # and no more: all else would be the same
    seen = Seen(requests=50)
    Client(wrong, known, seen, 0).run(threading.Event())
    assert seen.problems == ["a request failed: KeyError: 'data'"]


def test_clients_stop_and_keep_their_pace() -> None:
    seen = Seen()
    known = {"a": vector(1.0)}
    with asking(
        [Client(lambda texts: (1.0, [known["a"]] * len(texts), 0), known, seen, 0, 600.0)]
    ) as alive:
        eventually(lambda: seen.requests == 1)
        assert alive()
    assert seen.requests == 1  # the next one was due in ten minutes
    assert not alive()


def test_a_look_reads_the_process_and_tells_that_it_is_gone(tmp_path: Path) -> None:
    seen = Seen()
    store = tmp_path / "store.db"
    store.write_bytes(bytes(100))
    store.with_name("store.db-wal").write_bytes(bytes(11))
    look(seen, os.getpid(), store, print)
    assert seen.memory[0] > 1e6
    assert seen.files[0] > 2
    assert seen.store == [111]
    with pytest.raises(BenchError, match="ended in the middle"):
        look(seen, 2**22 + 1, store, print)


def test_what_the_gateway_counts_is_read_from_its_metrics() -> None:
    store, metrics = Store(Memory(), SECRET), Metrics()
    store.counts.written, store.counts.dropped = 7, 2
    metrics.watch(store, {})
    page = metrics.text()

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        counts = cache_counts(f"http://127.0.0.1:{server.server_port}/v1")
        thread.join()
    assert (counts["written"], counts["dropped"], counts["failed"]) == (7, 2, 0)


def test_the_page_quotes_the_record() -> None:
    record = msgspec.json.decode((RESULTS / "gateway_soak.json").read_bytes(), type=Report)
    assert not record.quick
    assert not record.missed
    assert record.settings["minutes"] >= 30
    found = {row.name: row.ours.median for row in record.rows}
    page = " ".join((ROOT / "docs" / "gateway.md").read_text("utf-8").split())
    for words in (
        f"{found['texts']:,.0f} texts, {found['of the texts, from the cache']:.1f} % of them",
        f"{found['memory, first half: median']:.1f} MB in the first half",
        f"{found['open files at the end']:.0f} open files",
        f"{found['store, at most']:.1f} MB at most",
        f"{found['requests that did not wait for the store']:.0f} of {found['requests']:,.0f}",
    ):
        assert words in page
    assert f"{found['memory, second half: median']:.1f} MB" in page
