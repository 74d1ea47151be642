from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.bench import load
from launcher.bench.load import Bounds, Interrupted, measure_level, texts_for
from launcher.bench.target import Target
from launcher.bench.texts import TextSource
from launcher.documents.comparison import Level, Row
from launcher.linux import processes
from launcher.service import ports
from tests.bench.server import WIDTH, Behaviour, serving, spoilt, words
from tests.patience import HANG_S, PATIENCE_S, no_hang

FAKE = Path(__file__).parents[1] / "fake_engine.py"
FEW = Bounds(requests=10, seconds=0.0, limit_s=PATIENCE_S, warmup=2, timeout_s=PATIENCE_S)
ONE = Level()
FIGURES = ("mean_ms", "p50_ms", "p95_ms", "p99_ms", "embeddings_per_s", "tokens_per_s")


def measure(server: Behaviour, level: Level = ONE, bounds: Bounds = FEW, **target: Any) -> Row:
    return measure_level(server.target(**target), level, words(), bounds)


def figures(row: Row) -> list[float | None]:
    return [getattr(row, name) for name in FIGURES]


@pytest.mark.parametrize(
    ("requests", "seconds", "more"),
    [
        (0, 100.0, True),  # one at least, however slow
        (29, 6.0, True),
        (30, 4.9, True),
        (30, 5.0, False),
        (2, 60.0, False),
    ],
)
def test_a_level_ends_after_both_minima_or_at_its_limit(
    requests: int, seconds: float, more: bool
) -> None:
    assert Bounds(requests=30, seconds=5.0, limit_s=60.0).more(requests, seconds) is more


def test_a_closed_loop_keeps_as_many_requests_under_way_as_there_are_clients() -> None:
    with serving(seconds=lambda _n: 0.02) as server:
        row = measure(server, Level(clients=4, batch=3, tokens=20))
        assert server.most == 4
        assert server.calls == 10 + 4  # each client once to warm up
        assert len(set(server.seen)) == len(server.seen) == 14 * 3
        assert {len(text.split()) + 2 for text in server.seen} == {20}
    assert (row.requests, row.errors, row.reason) == (10, 0, None)
    assert row.tokens_counted == 20
    assert row.p50_ms is not None
    assert row.p50_ms >= 20
    assert row.embeddings_per_s is not None
    assert row.tokens_per_s == pytest.approx(20 * row.embeddings_per_s, rel=1e-3)
    assert row.embeddings_per_s <= 4 * 3 / 0.02
    assert row.late_ms is None
    assert row.client_cpu_percent is not None


@pytest.mark.parametrize(("keep_alive", "connections"), [(True, 2), (False, 12)])
def test_connections_are_kept_unless_asked_otherwise(keep_alive: bool, connections: int) -> None:
    with serving() as server:
        target = server.target(keep_alive=keep_alive)
        bounds = Bounds(requests=10, warmup=2)
        row = measure_level(target, Level(clients=2), words(), bounds)
        assert (row.requests, row.errors, server.calls) == (10, 0, 12)
        assert server.connections == connections


def test_time_bounds_a_level_too() -> None:
    with serving(seconds=lambda _n: 0.05) as server:
        bounds = Bounds(requests=1000, limit_s=0.4, warmup=0)
        row = measure(server, bounds=bounds)
        assert 0 < row.requests <= 8
        longer = measure(
            server, bounds=Bounds(requests=1, seconds=1.0, limit_s=PATIENCE_S, warmup=0)
        )
        assert longer.requests > 1


def test_the_warm_up_is_not_measured() -> None:
    with serving(seconds=lambda number: 2.0 if number < 2 else 0.0) as server:
        row = measure(server)
    assert row.p99_ms is not None
    assert row.p99_ms < 1900  # beside any other work: what is answered at once takes a millisecond


def test_an_open_loop_counts_from_when_a_request_was_due() -> None:
    """One stall of half a second is suffered by all who came meanwhile, on one connection."""
    with serving(seconds=lambda number: 0.5 if number == 3 else 0.0) as server:
        level = Level(loop="open", rate=40.0, arrivals="constant")
        row = measure(server, level, Bounds(requests=30, limit_s=20, warmup=1))
        closed = serving(seconds=lambda number: 0.5 if number == 3 else 0.0)
        with closed as other:
            omitted = measure(other, Level(), Bounds(requests=30, limit_s=20, warmup=1))
    assert row.requests == 30
    assert row.rate == 40.0
    assert row.mean_ms is not None
    assert omitted.mean_ms is not None
    # 500 + 475 + 450 … over thirty requests, against 500 over thirty.
    assert row.mean_ms > 100
    assert row.late_ms is not None
    assert row.late_ms > 400  # the client had but one connection
    assert omitted.p50_ms is not None
    assert omitted.p50_ms < 400  # a stall is one of its thirty, whatever else is slow


def test_an_open_loop_starts_requests_at_its_rate_whatever_the_answers() -> None:
    with serving(seconds=lambda _n: 0.3) as server:
        level = Level(loop="open", rate=50.0, clients=40)
        row = measure(server, level, Bounds(requests=30, limit_s=20, warmup=1))
        assert server.most > 5
    assert row.requests == 30
    assert row.p50_ms is not None
    assert row.p50_ms >= 300


def test_arrivals_at_random_differ_and_even_ones_do_not() -> None:
    def schedule(**changes: Any) -> list[float]:
        level = Level(loop="open", rate=100.0, **changes)
        target = Target(mode="t", url="", model="m", dimensions=None)
        run = load._Run(target, level, words(), FEW, load._Tally(), lambda *_: None, None)  # type: ignore[arg-type]
        made = run._schedule()
        assert made is not None
        return [next(made) for _ in range(2000)]

    even = schedule(arrivals="constant")
    assert even[:3] == pytest.approx([0.0, 0.01, 0.02])
    poisson = schedule()
    assert poisson == sorted(poisson)
    assert poisson[-1] == pytest.approx(20.0, rel=0.15)
    assert poisson != schedule()


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        ({"edit": spoilt()}, "not finite"),
        ({"edit": spoilt(0.5, 3)}, "3 numbers instead of 8"),
        ({"status": lambda _n: 503}, "HTTP 503: too much"),
        ({"drop": lambda _n: True}, "broke off"),
    ],
)
def test_a_server_that_is_wrong_from_the_start_gives_a_row_without_figures(
    behaviour: dict[str, Any], says: str
) -> None:
    with serving(**behaviour) as server:
        row = measure(server)
    assert figures(row) == [None] * len(FIGURES)
    assert row.errors == 1
    assert row.error is not None
    assert says in row.error
    assert row.reason == f"the warm-up failed: {row.error}"


def test_all_failed_after_the_warm_up() -> None:
    with serving(status=lambda number: 200 if number < 2 else 500) as server:
        row = measure(server)
        assert server.calls == 2 + load.FAILURES_IN_A_ROW  # and then it was given up
    assert figures(row) == [None] * len(FIGURES)
    assert (row.requests, row.errors) == (0, load.FAILURES_IN_A_ROW)
    assert row.reason == "no request was answered: HTTP 500: too much"


def test_single_errors_are_counted_and_the_rest_measured() -> None:
    with serving(status=lambda number: 500 if number % 3 == 2 else 200) as server:
        row = measure(server)
    assert row.requests + row.errors == 10
    assert row.errors >= 3
    assert row.error == "HTTP 500: too much"
    assert row.reason is None
    assert row.p50_ms is not None


@pytest.mark.parametrize(
    ("level", "target", "says"),
    [
        (Level(tokens=512), {"longest": 511}, "the longest text it takes has 511 tokens"),
        (Level(tokens=2), {}, "the shortest text has 3 tokens"),
        (Level(loop="open"), {}, "an open loop needs a rate"),
    ],
)
def test_a_level_that_cannot_run_is_a_row_with_the_reason(
    level: Level, target: dict[str, Any], says: str
) -> None:
    with serving() as server:
        row = measure(server, level, **target)
        assert server.calls == 0
    assert figures(row) == [None] * len(FIGURES)
    assert row.reason is not None
    assert says in row.reason
    assert (row.tokens, row.errors, row.ram_peak_bytes) == (level.tokens, 0, None)


def test_a_level_that_runs_out_of_texts_keeps_what_was_measured() -> None:
    few = TextSource(["a"], {f"w{n}": 1 for n in range(30)}, 3)
    with serving() as server:
        bounds = Bounds(requests=100, warmup=1)
        row = measure_level(server.target(), Level(tokens=4), few, bounds)
    assert 10 < row.requests < 30
    assert row.p50_ms is not None
    assert row.reason == "ended early: there are not enough different texts of 4 tokens"


def test_progress_is_told_while_it_runs_and_at_the_end() -> None:
    told: list[tuple[int, float]] = []
    with serving(seconds=lambda _n: 0.05) as server:
        measure_level(
            server.target(), Level(), words(), FEW, lambda done, at: told.append((done, at))
        )
    assert len(told) >= 2
    assert told == sorted(told)
    assert told[-1][0] == 10


def test_a_client_at_its_limit_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(seconds=lambda _n: 0.05) as server:
        slow = measure(server)
        assert slow.client_cpu_percent is not None
        assert not slow.saturated
        monkeypatch.setattr(load, "SATURATED_PERCENT", 0.1)
        assert measure(server).saturated


def test_without_a_leader_memory_is_not_measured_and_says_why() -> None:
    with serving() as server:
        row = measure(server)
    assert row.ram_peak_bytes is None
    assert row.memory_method["ram"] == "unavailable"
    assert row.memory_method["ram_reason"]


def test_with_a_leader_the_memory_of_its_tree_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.record.sampler.STARTING_INTERVAL_S", 0.05)
    with serving() as server:
        row = measure(server, leader=os.getpid())
    assert row.ram_peak_bytes is not None
    assert row.ram_peak_bytes > 10_000_000
    assert row.memory_method["ram"] in ("pss", "rss")
    assert row.memory_method["gpu_reason"] == "the engine runs on the CPU"


def interrupting(number: signal.Signals) -> Callable[[int], float]:
    """A server that takes 20 ms for an answer, and interrupts us while some have been given."""

    def seconds(call: int) -> float:
        if call == 10:
            os.kill(os.getpid(), number)
        return 0.02

    return seconds


@pytest.mark.parametrize("loop", ["closed", "open"])
def test_ctrl_c_keeps_what_was_measured(loop: Any) -> None:
    with serving(seconds=interrupting(signal.SIGINT)) as server:
        level = Level(loop=loop, clients=2, rate=50.0 if loop == "open" else None)
        with pytest.raises(Interrupted) as found:
            measure(server, level, Bounds(requests=10_000, limit_s=PATIENCE_S, warmup=1))
    row = found.value.row
    assert row.requests > 0
    assert row.p50_ms is not None
    assert row.reason == "interrupted"
    assert row.errors == 0


def test_a_signal_that_is_raised_as_an_interrupt_keeps_it_too() -> None:
    """As `bench` and the benchmarks turn SIGTERM into one."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        bounds = Bounds(requests=10_000, limit_s=PATIENCE_S, warmup=1)
        with (
            serving(seconds=interrupting(signal.SIGTERM)) as server,
            pytest.raises(Interrupted) as found,
        ):
            measure(server, bounds=bounds)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert found.value.row.requests > 0


class Engine:
    """The stand-in for SGLang, as a process."""

    def __init__(self, *switches: str) -> None:
        self.port = ports.pick_free("127.0.0.1")
        command = [sys.executable, "-S", str(FAKE), "--port", str(self.port), "--dimensions", "8"]
        self.process = subprocess.Popen([*command, *switches], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE_S
        while not procs_listen(self.port):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def target(self, **changes: Any) -> Target:
        values: dict[str, Any] = {
            "mode": "fake",
            "url": f"http://127.0.0.1:{self.port}/v1",
            "model": "fake",
            "dimensions": WIDTH,
            "leader": self.process.pid,
        }
        return Target(**{**values, **changes})

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def procs_listen(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    made = Engine(*getattr(request, "param", ()))
    yield made
    made.close()
    assert not processes.is_alive(processes.process_id(made.process.pid))


def test_the_stand_in_engine_is_measured_with_its_memory(engine: Engine) -> None:
    source = texts_for(None, engine.target())
    row = measure_level(engine.target(), Level(clients=2, batch=2, tokens=20), source, FEW)
    assert (row.requests, row.errors, row.tokens_counted) == (10, 0, 20)
    assert row.ram_peak_bytes is not None
    assert row.ram_peak_bytes > 1_000_000


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        (["--nan"], "not finite"),
        (["--wrong-dim"], "7 numbers instead of 8"),
    ],
    indirect=["engine"],
)
def test_an_engine_with_wrong_vectors_is_not_measured(engine: Engine, says: str) -> None:
    source = texts_for(None, engine.target(dimensions=None)) if "7" in says else words()
    row = measure_level(engine.target(), Level(tokens=20), source, FEW)
    assert row.p50_ms is None
    assert row.error is not None
    assert says in row.error


@pytest.mark.parametrize("engine", [["--drop-one"]], indirect=True)
def test_an_engine_that_loses_a_vector_is_seen_in_batches(engine: Engine) -> None:
    row = measure_level(engine.target(), Level(batch=3, tokens=20), words(), FEW)
    assert row.error == "2 vectors came back for 3 texts"


@pytest.mark.parametrize("engine", [["--hang-after", "12"]], indirect=True)
def test_an_engine_that_hangs_ends_the_level_in_bounded_time(engine: Engine) -> None:
    bounds = Bounds(requests=1000, limit_s=1.0, warmup=2, timeout_s=1.5)
    with no_hang():
        row = measure_level(engine.target(), Level(clients=2, tokens=20), words(), bounds)
    assert row.requests == 10
    assert row.error == "no whole answer within 1.5 s"
    assert row.p50_ms is not None


def test_an_engine_killed_in_the_middle_leaves_what_was_measured(engine: Engine) -> None:
    def kill(answered: int, _seconds: float) -> None:
        if answered:
            engine.process.kill()

    bounds = Bounds(requests=1_000_000, limit_s=HANG_S, warmup=2)
    row = measure_level(engine.target(), Level(clients=3, tokens=20), words(), bounds, kill)
    assert row.requests > 0
    assert row.p50_ms is not None
    assert row.errors >= load.FAILURES_IN_A_ROW
    assert row.reason == f"ended early: {row.error}"
    assert row.seconds < PATIENCE_S
    assert row.ram_peak_bytes is not None  # from before


def test_an_engine_that_is_gone_gives_a_row(engine: Engine) -> None:
    engine.close()
    row = measure_level(engine.target(), Level(tokens=20), words(), FEW)
    assert row.p50_ms is None
    assert row.reason is not None
    assert "the warm-up failed: cannot connect" in row.reason
