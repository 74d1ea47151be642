"""`qlaunch top`: in a real pseudo-terminal, as lines, as a stream; and what its figures are."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pexpect
import pyte
import pytest
from msgspec import to_builtins

from launcher.app import live_view
from launcher.app.live_view import LiveView
from launcher.cli import top_view
from launcher.documents.look import LatencyLook, MemoryLook, QueueLook
from launcher.documents.run import Sample
from launcher.documents.service_state import ServiceState
from launcher.documents.smoke import SmokeReport
from launcher.hardware.nvml import Unavailable
from launcher.paths import dirs
from launcher.service import control, store
from tests.patience import PATIENCE_S
from tests.service.home import Home, eventually

PROGRAM = "from launcher.cli.main import entry; entry()"
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7])m")


class Terminal:
    """A command in a pseudo-terminal, and the screen as a person sees it."""

    def __init__(self, *words: str, width: int = 80, height: int = 24, **env: str) -> None:
        self.screen = pyte.Screen(width, height)
        self._stream = pyte.Stream(self.screen)
        self.raw = ""
        # Workers of a parallel run have a width of their own in COLUMNS, which would stay.
        set_elsewhere = ("NO_COLOR", "COLUMNS", "LINES")
        kept = {name: value for name, value in os.environ.items() if name not in set_elsewhere}
        self.child: Any = pexpect.spawn(
            sys.executable,
            ["-c", PROGRAM, *words],
            env={**kept, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **env},
            dimensions=(height, width),
            encoding="utf-8",
            timeout=PATIENCE_S,
        )

    def read(self, seconds: float = 0.1) -> None:
        with contextlib.suppress(pexpect.TIMEOUT, pexpect.EOF):
            while True:
                text = self.child.read_nonblocking(65536, timeout=seconds)
                self.raw += text
                self._stream.feed(text)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]

    def until(self, words: str) -> list[str]:
        def there() -> bool:
            self.read()
            return any(words in line for line in self.lines)

        eventually(there)
        return self.lines

    def resize(self, width: int, height: int) -> None:
        self.screen.resize(height, width)
        self.child.setwinsize(height, width)

    def end(self) -> int:
        def over() -> bool:
            self.read()
            return not self.child.isalive()

        eventually(over)
        self.child.close()
        assert self.child.exitstatus is not None
        return int(self.child.exitstatus)


@pytest.fixture
def terminal() -> Iterator[Any]:
    made: list[Terminal] = []

    def make(*words: str, **more: Any) -> Terminal:
        made.append(Terminal(*words, **more))
        return made[-1]

    yield make
    for one in made:
        one.child.close(force=True)


def top(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, "top", *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


# On a terminal ------------------------------------------------------------------------------------


def test_a_terminal_of_eighty_columns_and_its_resizing(home: Home, terminal: Any) -> None:
    for name in ("svc", "a-service-with-a-name-that-is-much-too-long-for-its-column"):
        home.up(home.plan("--workers", name=name))
    found = terminal("top", "--interval", "0.5")
    lines = found.until("scheduler")
    assert any(line.startswith("SERVICE") and line.endswith("REST") for line in lines)
    assert any(line.startswith("svc") and " ready " in line for line in lines)
    assert any(line.startswith("a-service") and "… ready" in line for line in lines)
    assert COLOUR.search(found.raw)
    found.resize(60, 7)
    lines = found.until("more lines")
    assert max(map(len, lines)) <= 60
    found.resize(120, 30)
    found.until("a-service-with-a-name-that-is-much-too-long-for-its-column")
    found.child.sendintr()
    assert found.end() == 130
    assert found.raw.rstrip().endswith(("\x1b[?25h", "\x1b[?1049l"))
    assert found.raw.count("\x1b[?1049h") == found.raw.count("\x1b[?1049l") == 1
    assert "Traceback" not in found.raw


def test_a_service_that_ends_stays_in_sight(home: Home, terminal: Any) -> None:
    home.up(home.plan())
    found = terminal("top", "--interval", "0.3", NO_COLOR="1")
    found.until("ready")
    state = home.state()
    assert state is not None
    assert state.supervisor is not None
    os.kill(state.supervisor.pid, signal.SIGKILL)
    lines = found.until("failed")
    assert any(line.startswith("svc") and " – " in line for line in lines)
    found.until("supervisor was killed")
    assert not COLOUR.search(found.raw), "NO_COLOR was set"
    found.child.kill(signal.SIGTERM)
    assert found.end() == 130
    assert "\x1b[?1049l" in found.raw


def test_no_service_and_a_number_of_looks(home: Home, terminal: Any) -> None:
    found = terminal("top", "--count", "2", "--interval", "0.2")
    found.until("no services are running")
    assert found.end() == 0


# As text and as documents -------------------------------------------------------------------------


def test_without_a_terminal_it_looks_once(home: Home) -> None:
    home.up(home.plan("--workers"))
    done = top()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].split() == list(top_view.HEADINGS)
    assert "front" in done.stdout
    assert "\x1b" not in done.stdout
    assert top("--count", "2", "--interval", "0.2").stdout.count("SERVICE") == 2


def test_json_is_a_document_a_look(home: Home) -> None:
    up = home.up(home.plan("--workers"))
    done = top("--json", "--count", "3", "--interval", "0.2")
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert [list(document) for document in documents] == [["at", "services"]] * 3
    [row] = documents[-1]["services"]
    assert (row["service"], row["state"], row["restarts"]) == ("svc", "ready", 0)
    assert row["endpoint"] == up.endpoint
    assert row["uptime_s"] > 0
    assert row["ram"]["method"] == "pss"
    assert set(row["ram"]["by_process"]) == {"front", "scheduler", "detokenizer"}
    assert sum(row["ram"]["by_process"].values()) == row["ram"]["bytes"]
    assert row["cpu_percent"] is not None
    assert row["gpu"] == {
        "bytes": None,
        "method": "unavailable",
        "by_process": {},
        "reason": "the plan uses no GPU",
    }
    once = json.loads(top("--json", "--once").stdout)
    assert once["command"] == "top"
    assert once["data"]["services"][0]["cpu_percent"] is not None


def test_an_unknown_service_is_an_error(home: Home) -> None:
    assert top("absent").returncode == 3
    assert top("absent", "--json", "--count", "1").returncode == 3


def test_a_reader_that_goes_ends_it(home: Home) -> None:
    command = [sys.executable, "-c", PROGRAM, "top", "--json", "--interval", "0.2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


# What it says -------------------------------------------------------------------------------------


def say(state: ServiceState, *lines: str) -> None:
    """Add to the engine's log, as written this moment."""
    now = time.strftime("[%Y-%m-%d %H:%M:%S]")
    with (dirs().runs / state.run / "engine.log").open("a") as file:
        file.writelines(f"{now} {line}\n" for line in lines)


BATCH = "Prefill batch, #new-seq: {}, #new-token: {}, #cached-token: 0, #queue-req: {}, x"


def test_rate_and_queue_are_those_of_the_log(home: Home) -> None:
    up = home.up(home.plan())
    with contextlib.closing(LiveView()) as found:
        [row] = found.look().services
        assert row.rate.texts_per_s is None
        assert row.rate.reason == "its log shows no batch yet"
        say(up, BATCH.format(1, 1, 0))
        [row] = found.look().services
        assert row.rate.texts_per_s == 0.0
        assert row.queue == QueueLook(requests=None, reason="no batch in the last 10 s")
        say(up, BATCH.format(30, 3000, 5), BATCH.format(10, 1000, 2))
        [row] = found.look().services
        assert (row.rate.texts_per_s, row.rate.tokens_per_s) == (4.0, 400.0)
        assert row.queue == QueueLook(requests=2)
        found._views["svc"]._log._batches[0] = (time.time() - 11, 30, 3000)
        [row] = found.look().services
        assert row.rate.texts_per_s == 1.0
    with contextlib.closing(LiveView()) as another:  # what came before it looked counts too
        assert another.look().services[0].rate.texts_per_s == 4.0


def test_the_latency_is_the_supervisors_own(home: Home) -> None:
    home.options["timing"] |= {"beat_s": 0.2}
    home.up(home.plan())
    checked = eventually(lambda: (s := home.state()) and s.last_check.at and s)
    with contextlib.closing(LiveView()) as found:
        [row] = found.look().services
    assert row.latency.source == "check"
    assert row.latency.ms is not None
    assert row.latency.ms > 0
    assert isinstance(row.latency.age_s, float)
    assert row.latency.age_s < 60
    assert to_builtins(control.status_of(checked))["last_check"]["at"]


def test_latency_words() -> None:
    state = store.unreadable("svc", "x")
    assert live_view.latency(state) == LatencyLook(
        ms=None, reason="none of qlaunch's own embedding calls was answered yet"
    )
    report = SmokeReport(ok=True, checks=(), latency_ms=23.456)
    smoked = msgspec.structs.replace(state, smoke=report)
    assert live_view.latency(smoked) == LatencyLook(ms=23.5, source="smoke", age_s=None)


class Gpu:
    """NVML as it may be: with processes, without, or lost."""

    spent_s = 0.0

    def __init__(self) -> None:
        self.processes: dict[int, int | None] | Unavailable = {}
        self.used: dict[str, int] | Unavailable = {"GPU-0": 5 * 10**9}

    def process_memory(self) -> dict[int, int | None] | Unavailable:
        return self.processes

    def device_used(self) -> dict[str, int] | Unavailable:
        return self.used

    def close(self) -> None:
        pass


def test_gpu_memory_by_process_by_record_and_lost(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    up = home.up(home.plan())
    assert up.engine is not None
    gpu = Gpu()
    monkeypatch.setattr(LiveView, "_gpu_reader", lambda self, state: gpu)
    monkeypatch.setattr(live_view, "BUDGET", 1e9)  # every look takes a sample
    with contextlib.closing(LiveView()) as found:
        gpu.processes = {up.engine.pid: 2 * 10**9}
        row = found.look().services[0].gpu
        assert (row.bytes, row.by_process) == (2 * 10**9, {"front": 2 * 10**9})
        gpu.processes = {}
        row = found.look().services[0].gpu
        assert row.bytes is None, "a difference from a baseline taken too late is no figure"
        recorded = Sample(
            t_s=1e6,
            ram_bytes=None,
            ram_method="unavailable",
            cpu_percent=None,
            gpu_bytes=3 * 10**9,
            gpu_method="device_delta",
            processes=(),
        )

        def with_it_recorded() -> MemoryLook:
            """The supervisor records too: where its sample came after ours, ours is added again."""
            with (dirs().runs / up.run / "samples.ndjson").open("ab") as file:
                file.write(msgspec.json.encode(recorded) + b"\n")
            return found.look().services[0].gpu

        assert eventually(lambda: with_it_recorded().bytes == 3 * 10**9)
        assert eventually(lambda: with_it_recorded().method == "device_delta")
        gpu.processes = gpu.used = Unavailable("the GPU is lost")
        look = found.look()
        row = look.services[0].gpu
        assert (row.bytes, row.reason) == (None, "the GPU is lost")
        assert "  GPU unavailable: the GPU is lost" in top_view.plain(look)


def test_looking_at_a_large_engine_costs_little(home: Home) -> None:
    home.up(home.plan())
    with contextlib.closing(LiveView()) as found:
        found.look()
        found.look()
        sampler = found._views["svc"]._sampler
        assert sampler is not None
        sampler.cost_s = 100.0
        found._views["svc"]._due = time.monotonic() + sampler.cost_s / live_view.BUDGET
        before = found._views["svc"]._sample
        found.look()
        assert found._views["svc"]._sample is before


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        *((None, "–"), (999, "1k"), (451_000_000, "451M"), (1_110_000_000, "1.11G")),
        *((21_500_000_000, "21.5G"), (150_000_000_000, "150G")),
    ],
)
def test_memory_in_few_characters(count: int | None, shown: str) -> None:
    assert top_view.memory(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "–"), (0.2, "0s"), (119, "119s"), (720, "12m"), (10_800, "3h"), (800_000, "9d")],
)
def test_a_time_in_few_characters(seconds: float | None, shown: str) -> None:
    assert top_view.duration(seconds) == shown


def test_paths_are_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home that has never been used."""
    monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path / "new"))
    with contextlib.closing(LiveView()) as found:
        assert found.look(everything=True).services == ()
