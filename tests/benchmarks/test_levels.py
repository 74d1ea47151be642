"""Levels of a service and their two callers, whole, against a scripted engine."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import contention, levels, machine, replicas, scale
from benchmarks.errors import BenchError
from benchmarks.home import Up
from benchmarks.levels import Measured, measure, of_clients
from benchmarks.options import Options
from launcher.bench.target import Target
from launcher.bench.texts import TextSource
from launcher.documents.comparison import Level
from tests.bench.server import WIDTH, words

ROOT = Path(__file__).parents[2]
ENGINE = """
import os, sys, threading, time
from tests.bench.server import serving

log = open(sys.argv[1], "a")
parent = os.getpid()
if os.fork() == 0:  # the scheduler: always at work
    while os.getppid() == parent:
        pass
    os._exit(0)

def edit(number, data):
    texts = len(data) + (number // 10 if sys.argv[2:] == ["joins"] else 0)
    print(f"[2026-11-26 12:00:00] Prefill batch, #new-seq: {texts}, #new-token: 128,",
          "#cached-token: 0, #queue-req: 0", file=log, flush=True)
    return data[: 0 if sys.argv[2:] == ["short"] else None]

with serving(edit=edit) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


class Place:
    """A home whose services are one scripted engine each; `several`: they name no process."""

    def __init__(self, root: Path, *switches: str) -> None:
        self.root, self.switches = root, switches
        self.ups: list[tuple[str, ...]] = []
        self.stack = contextlib.ExitStack()
        self.names = iter(range(99))

    def up(self, name: str, *arguments: str) -> Up:
        self.ups.append((name, *arguments))
        folder = self.root / f"run{next(self.names)}"
        folder.mkdir()
        (folder / "engine.log").write_text("Prefill batch, #new-seq: 64, #new-token: 9\n")
        engine = self.stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", ENGINE, str(folder / "engine.log"), *self.switches],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert engine.stdout is not None
        url = engine.stdout.readline().strip()
        one = "--replicas" not in arguments
        data = {
            "endpoint": url,
            "engine": {"version": "0.5"},
            "pid": engine.pid if one else None,
            "run": folder.name if one else None,
        }
        return Up(0.0, data)

    def run_record(self, run: str) -> dict[str, Any]:
        return {"path": str(self.root / run)}

    def target(self, _place: object, data: dict[str, Any]) -> tuple[Target, TextSource]:
        return Target(mode="m", url=data["endpoint"], model="m", dimensions=WIDTH), words()


@contextlib.contextmanager
def cores_alike(_place: object, cores: int) -> Iterator[contention.Cores]:
    alike = contention.Cores([])
    alike.together = lambda **_named: 0.9  # type: ignore[method-assign]
    yield alike


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    made = Place(tmp_path)

    @contextlib.contextmanager
    def home() -> Iterator[Place]:
        with made.stack:
            yield made

    for module in (levels, scale):
        monkeypatch.setattr(module, "home", home)
    for caller in (scale, replicas):
        monkeypatch.setattr(caller, "provide", lambda *_words, **_named: None)
        monkeypatch.setattr(caller, "_SECONDS", 0.1)
    monkeypatch.setattr(levels, "engine_target", made.target)
    monkeypatch.setattr(scale, "engine_cores", cores_alike)
    monkeypatch.setattr(machine, "idle_share", lambda _seconds: 0.97)
    yield made
    made.stack.close()


def test_a_level_has_rates_latencies_and_who_worked_how_long(place: Place) -> None:
    one: dict[int, Measured] = {}
    facts: dict[str, Any] = {"idle_before": 1.0}
    asked = [*of_clients(one, (1, 4)), (Level(batch=3), Measured())]
    version = measure(asked, "svc", ("--x",), seconds=0.3, warmup=2, facts=facts)
    assert version == "0.5"
    assert place.ups == [("svc", "cpu-minilm", "--x")]
    assert facts["idle_before"] == 0.97
    for level, measured in asked:
        assert len(measured.per_s) == 1
        assert measured.per_s[0] > 0
        assert 0 < measured.p50_ms[0] <= measured.p95_ms[0]
        assert measured.client_ms[0] > 0
        assert measured.engine_ms[0] > 0
        assert measured.batch == [level.batch]  # what stood in the log before does not count
    assert one.keys() == {1, 4}


def test_further_repeats_join_the_first(place: Place) -> None:
    one: dict[int, Measured] = {}
    for _ in range(2):
        measure(of_clients(one, (2,)), "svc", (), seconds=0.1, warmup=1, facts={"idle_before": 1.0})
    assert len(one[2].per_s) == len(one[2].batch) == len(one[2].front_ms) == 2


def test_wrong_answers_end_the_measurement(place: Place) -> None:
    place.switches = ("short",)
    with pytest.raises(BenchError, match="0 vectors came back"):
        measure(of_clients({}, (1,)), "svc", (), seconds=0.1, warmup=1, facts={"idle_before": 1.0})


def test_scale_runs_whole(place: Place) -> None:
    place.switches = ("joins",)  # batches of several sizes
    report = scale.run(Options(repeats=1))
    assert [up[2:] for up in place.ups] == [
        ("--threads", "1", "--", "--dp-size", "1"),
        ("--threads", "1", "--", "--dp-size", "2"),
    ]
    assert [row.name for row in report.rows] == [
        f"{n} replica{'s' * (n > 1)}, {clients} clients"
        for n in scale.REPLICAS
        for clients in scale.CLIENTS
    ]
    assert report.settings["together"] == 0.9
    assert all(costs["text_s"] >= 0 for costs in report.settings["costs_ms"].values())


def test_replicas_run_whole_with_a_set_that_names_no_process(place: Place) -> None:
    report = replicas.run(Options(repeats=1))
    assert [up[2:] for up in place.ups] == list(replicas.WAYS.values())
    assert len(report.rows) == 2 * 2 * len(replicas.CLIENTS)
    assert report.raw["two replicas"]["16"]["per_s"]
    assert report.raw["two replicas"]["16"]["front_ms"] == []
    assert report.raw["one engine"]["16"]["front_ms"]
