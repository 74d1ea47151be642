from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import agreement, client
from benchmarks.agreement import Other, Pair
from benchmarks.client import Seen, null_row, sound
from benchmarks.errors import BenchError
from launcher.bench.target import Target, unmeasured
from launcher.bench.texts import TextSource
from launcher.documents.comparison import Level, Row


def words() -> TextSource:
    return TextSource(["head"], {f"w{n}": 1 for n in range(500)}, 3)


@pytest.mark.parametrize(("batch", "clients"), client.SHAPES)
def test_the_client_is_measured_against_a_server_that_answers_at_once(
    batch: int, clients: int
) -> None:
    before = os.sched_getaffinity(0)
    row = null_row(Level(batch=batch, clients=clients), words(), 0.2)
    assert row.errors == 0
    assert row.requests >= clients
    assert row.tokens_counted == client.TOKENS
    assert os.sched_getaffinity(0) == before


def row(rate: float | None) -> Row:
    nothing = unmeasured("m", Level(), "why")
    if rate is None:
        return nothing
    return Row(
        **{name: getattr(nothing, name) for name in nothing.__struct_fields__}
        | {"embeddings_per_s": rate, "client_cpu_percent": 2.0}
    )


@pytest.mark.parametrize(("alone", "ok"), [(2000.0, True), (1999.0, False)])
def test_twenty_times_the_engine_is_wanted(alone: float, ok: bool) -> None:
    seen = Seen(client={"one": [row(alone)]}, engine={"one": [row(100.0)]})
    first, second = client.rows(seen)
    assert (first.ok, first.wanted) == (ok, "≥ 20 ×")
    assert (second.ok, second.ours.median) == (None, 2.0)


def test_wrong_answers_are_no_figures() -> None:
    assert sound(row(5.0)).embeddings_per_s == 5.0
    with pytest.raises(BenchError, match="m: why"):
        sound(row(None))


@pytest.mark.parametrize(("ours", "ok"), [(104.9, True), (106.0, False), (94.0, False)])
def test_five_percent_apart_is_agreement(ours: float, ok: bool) -> None:
    pair = Pair()
    pair.ours.per_s, pair.theirs.per_s = [ours], [100.0]
    pair.ours.p50_ms, pair.theirs.p50_ms = [10.0], [10.0]
    throughput, p50 = agreement.rows({16: pair})
    assert (throughput.name, throughput.ok, throughput.wanted) == (
        "16 clients: throughput",
        ok,
        "within 5%",
    )
    assert p50.ok


TOOL = """
import json, sys
given = dict(zip(sys.argv[2::2], sys.argv[3::2]))
import datasets
lines = [json.loads(line) for line in open(given["--dataset-path"])]
print(json.dumps(given), file=sys.stderr)
document = {"completed": len(lines) - LOST, "request_throughput": 5.0, "median_e2e_latency_ms": 7.0}
open(given["--output-file"], "w").write(json.dumps(document) + "\\n")
sys.exit(CODE)
"""


def tool(folder: Path, lost: int = 0, code: int = 0) -> Other:
    """A stand-in for bench_serving: `python -m sglang.benchmark.serving`."""
    package = folder / "modules" / "sglang" / "benchmark"
    package.mkdir(parents=True)
    (folder / "modules" / "datasets.py").write_text(agreement._STAND_IN)
    text = TOOL.replace("LOST", str(lost)).replace("CODE", str(code))
    (package / "serving.py").write_text(text)
    environment = {"PYTHONPATH": str(folder / "modules")}
    return Other(Path(sys.executable), environment, "tokenizer", folder)


def target() -> Target:
    return Target(mode="m", url="http://127.0.0.1:1/v1", model="m", dimensions=8)


def test_the_other_tool_gets_our_texts_encoding_and_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[subprocess.CompletedProcess[str]] = []
    real = subprocess.run

    def watched(*args: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        said.append(real(*args, **options))
        return said[-1]

    monkeypatch.setattr(subprocess, "run", watched)
    found = tool(tmp_path).measure(target(), words(), 16, 20)
    assert found["median_e2e_latency_ms"] == 7.0
    given = json.loads(said[0].stderr)
    assert given["--base-url"] == "http://127.0.0.1:1"
    assert (given["--max-concurrency"], given["--num-prompts"]) == ("16", "20")
    assert json.loads(given["--extra-request-body"]) == {"encoding_format": "base64"}
    texts = [json.loads(line) for line in (tmp_path / "texts.jsonl").read_text().splitlines()]
    assert {len(each["conversations"][0]["content"].split()) for each in texts} == {126}


@pytest.mark.parametrize(
    ("lost", "code", "says"),
    [(0, 3, "bench_serving ended with 3"), (2, 0, "8 of 10 requests of bench_serving worked")],
)
def test_a_tool_that_fails_ends_the_benchmark(
    tmp_path: Path, lost: int, code: int, says: str
) -> None:
    with pytest.raises(BenchError, match=says):
        tool(tmp_path, lost, code).measure(target(), words(), 1, 10)
