"""`qlaunch bench` with the real supervisor and the stand-in for SGLang."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from launcher.bench.lengths import Length
from launcher.bench.load import measure_level
from launcher.bench.target import Target
from launcher.cli import benchtable
from launcher.cli.load_options import grid, requests_of
from launcher.cli.main import main
from launcher.documents.comparison import Level, Row
from launcher.documents.plan import Plan
from launcher.errors import ExitCode
from launcher.linux import processes
from launcher.paths import dirs
from launcher.record.bench import read_bench
from launcher.service import control, store
from tests.children import ignoring
from tests.cli.commandline import Answer, Run
from tests.patience import PATIENCE_S
from tests.service.home import Home, eventually

SHORT = ("--tokens", "20", "--requests", "5")
CONTRACT = {
    "mode",
    "batch",
    "clients",
    "mean_ms",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "embeddings_per_s",
    "tokens_per_s",
    "ram_peak_bytes",
    "gpu_peak_bytes",
}


ABC = "abcdefghijklmnop"


class WithWords(Home):
    def plan(self, *switches: str, name: str = "svc", **changes: Any) -> Plan:
        where = str(self.root / "words")
        switches = ("--model-path", where, *switches)
        return super().plan(*switches, name=name, model_path=where, **changes)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path))
    monkeypatch.setattr("launcher.app.test_conditions.IDLE_S", 0.02)
    words = tmp_path / "words"  # a vocabulary: the stand-in counts every word as a token
    words.mkdir()
    (words / "vocab.txt").write_text("\n".join(f"{a}{b}word" for a in ABC for b in ABC))
    found = WithWords(tmp_path)
    yield found
    for name in store.list_services():
        control.down(name)
    found.assert_nothing_left()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> Answer:
        capsys.readouterr()
        code = main(list(words))
        out, err = capsys.readouterr()
        return Answer(code, out, err)

    return call


@pytest.fixture
def profile(home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """The profile `svc`, whose engine is the stand-in."""
    plan = home.plan()
    launch = functools.partial(control.launch, entry=home.entry)
    monkeypatch.setattr("launcher.cli.bench.control.launch", launch)
    monkeypatch.setattr(
        "launcher.cli.bench.named_model.names_start", lambda name, _folder: name == "svc"
    )
    monkeypatch.setattr(
        "launcher.cli.up.prepare",
        lambda request, _say: SimpleNamespace(plan=plan, given=request),
    )
    monkeypatch.setattr("launcher.cli.up.require_fit", lambda _prepared: None)
    return home


def test_a_running_service_is_measured_and_left_running(home: Home, run: Run) -> None:
    state = home.up(home.plan())
    answer = run("bench", "svc", *SHORT, "--clients", "1,2", "--json")
    assert answer.code == 0, answer.out
    data = answer.data
    assert (data["service"], data["run"], data["started"]) == ("svc", state.run, False)
    shapes = [(row["clients"], row["batch"], row["requests"]) for row in data["rows"]]
    assert shapes == [(1, 1, 5), (1, 4, 5), (2, 1, 5), (2, 4, 5)]
    for row in data["rows"]:
        assert row.keys() >= CONTRACT
        assert row["mode"] == "svc"
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["tokens_counted"] == 20
        assert row["ram_peak_bytes"] > 1_000_000
        assert row["gpu_peak_bytes"] is None
        assert row["memory_method"]["gpu_reason"]
    after = store.read_state("svc")
    assert after is not None
    assert (after.state, after.run) == ("ready", state.run)


def test_it_is_kept_with_the_run_and_shown(home: Home, run: Run) -> None:
    state = home.up(home.plan())
    first = run("bench", "svc", *SHORT, "--json").data
    run("bench", "svc", *SHORT, "--batch", "2", "--rate", "50")
    kept = read_bench(dirs().runs / state.run)
    assert [len(each.rows) for each in kept] == [1, 1, 1]
    assert json.loads(msgspec.json.encode([*kept[0].rows, *kept[1].rows])) == first["rows"]
    assert kept[0].measurement == kept[1].measurement <= kept[0].made
    assert kept[2].measurement > kept[0].measurement
    assert (kept[0].version, kept[0].profile, kept[0].engine) == (1, "fake", "0")
    shown = run("runs", "show", state.run)
    assert "measured under load" in shown.out
    assert "RATE/S" in shown.out
    assert run("runs", "show", state.run, "--json").data["bench"] == json.loads(
        msgspec.json.encode(kept)
    )


def test_people_get_a_table_and_progress_on_stderr(home: Home, run: Run) -> None:
    home.up(home.plan())
    answer = run("bench", "svc", *SHORT, "--batch", "1")
    assert answer.code == 0
    assert "CLIENTS  BATCH  TOKENS  MEAN MS" in answer.out
    assert "1 client, 1 × 20 tokens: p50" in answer.err
    assert run("bench", "svc", *SHORT, "--batch", "1", "--quiet").err == ""


def test_an_open_loop(home: Home, run: Run) -> None:
    home.up(home.plan())
    words = ("--rate", "40,80", "--arrivals", "constant", "--batch", "1", "--json")
    rows = run("bench", "svc", *SHORT, *words).data["rows"]
    assert [(row["loop"], row["rate"], row["clients"]) for row in rows] == [
        ("open", 40.0, 64),
        ("open", 80.0, 64),
    ]
    assert rows[0]["seconds"] >= 4 / 40
    assert rows[0]["late_ms"] is not None


def test_levels_that_cannot_run_have_a_reason_and_the_rest_figures(home: Home, run: Run) -> None:
    home.up(home.plan())
    words = ("--tokens", "20,512", "--batch", "1", "--requests", "5", "--json")
    answer = run("bench", "svc", *words)
    assert answer.code == ExitCode.PARTIAL
    good, cannot = answer.data["rows"]
    assert good["p50_ms"] is not None
    assert cannot["p50_ms"] is None
    assert cannot["reason"] == "the longest text it takes has 511 tokens"
    assert answer.error["code"] == "level_failed"
    assert answer.document["status"] == "partial"
    text = run("bench", "svc", *words[:-1])
    assert "1 client, 1 × 512 tokens: the longest text it takes has 511 tokens" in text.out


@pytest.mark.parametrize("tokens", ["1", "100000", "600,512"])
def test_lengths_that_the_model_never_takes_are_usage(
    home: Home, run: Run, monkeypatch: pytest.MonkeyPatch, tokens: str
) -> None:
    """It ended with exit 1, without a word of what to give."""
    monkeypatch.setattr("launcher.model.special_tokens.count_of", lambda _folder: 2)
    home.up(home.plan())
    answer = run("bench", "svc", "--tokens", tokens, "--json")
    assert (answer.code, answer.error["code"]) == (2, "usage")
    assert f"--tokens {tokens}: a text of fake has " in answer.error["message"]
    assert answer.error["fix"] == "give --tokens a number from 3 to 511"


def test_a_length_below_what_the_engine_puts_around_a_text_is_usage(
    home: Home, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = SimpleNamespace(around=30)
    monkeypatch.setattr("launcher.bench.texts.texts_for", lambda *_: texts)
    home.up(home.plan())
    answer = run("bench", "svc", "--tokens", "20", "--json")
    assert (answer.code, answer.error["code"]) == (2, "usage")
    assert "a text of fake has 30 to 511 tokens" in answer.error["message"]


def test_texts_too_short_to_differ_are_told_with_what_to_change(home: Home, run: Run) -> None:
    home.up(home.plan())
    answer = run("bench", "svc", "--tokens", "1", "--json")
    assert "there are not enough different texts of 1 tokens" in answer.error["message"]
    assert "longer texts with --tokens" in answer.error["fix"]


def test_a_length_that_is_too_long_ends_before_the_start(profile: Home, run: Run) -> None:
    answer = run("bench", "svc", "--tokens", "512", "--json")
    assert (answer.code, answer.error["code"]) == (2, "usage")
    assert store.list_services() == []


@pytest.mark.parametrize("switch", ["--nan"])
def test_where_nothing_could_be_measured_it_is_an_error(
    home: Home, run: Run, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    home.options["verify"] = [sys.executable, "-S", str(Path(__file__).parent / "agree.py")]
    home.up(home.plan(switch))
    answer = run("bench", "svc", *SHORT, "--json")
    assert answer.code == ExitCode.UNEXPECTED
    assert [row["p50_ms"] for row in answer.data["rows"]] == [None, None]
    assert "not finite" in answer.data["rows"][0]["reason"]


def test_a_killed_engine_costs_a_level_and_not_the_measurement(
    home: Home, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.up(home.plan())

    def measure(target: Target, *rest: Any) -> Row:
        assert target.leader is not None
        if not read_bench(dirs().runs / store.read_state("svc").run):  # type: ignore[union-attr]
            threading.Timer(1.0, os.kill, (target.leader, signal.SIGKILL)).start()
        return measure_level(target, *rest)

    monkeypatch.setattr("launcher.bench.load.measure_level", measure)
    words = ("--tokens", "20", "--batch", "1,2", "--requests", "1000000", "--seconds", "2")
    answer = run("bench", "svc", *words, "--json")
    assert answer.code == ExitCode.PARTIAL
    first, second = answer.data["rows"]
    assert first["requests"] > 0
    assert first["errors"] > 0
    # Fewer than five in a row where the supervisor was quick to start the engine again.
    assert first["reason"] in (None, f"ended early: {first['error']}")
    assert second["reason"] is None or "the service is" in second["reason"]


def test_what_runs_not_and_is_no_profile_is_exit_3(home: Home, run: Run) -> None:
    answer = run("bench", "nobody", "--json")
    assert (answer.code, answer.error["code"]) == (3, "no_such_service")
    home.up(home.plan())
    control.down("svc")
    answer = run("bench", "svc", "--json")
    assert (answer.code, answer.error["code"]) == (3, "not_running")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["bench"], "name a running service or a profile"),
        (["bench", "svc", "--batch", "1,x"], "list of positive numbers"),
        (["bench", "svc", "--clients", "0"], "list of positive numbers"),
        (["bench", "svc", "--clients", "100000"], "1024 at most"),
        (["bench", "svc", "--rate", "-1"], "list of positive numbers"),
        (["bench", "svc", "--rate", "nan"], "list of positive numbers"),
        (["bench", "one", "two"], "one profile at a time"),
    ],
)
def test_wrong_usage(home: Home, run: Run, words: list[str], says: str) -> None:
    answer = run(*words, "--json")
    assert answer.code == 2
    assert says in answer.error["message"]


def test_options_of_a_start_are_refused_beside_a_running_service(home: Home, run: Run) -> None:
    home.up(home.plan())
    answer = run("bench", "svc", "--dtype", "float32", "--json")
    assert answer.code == 2
    assert "--dtype" in answer.error["message"]
    answer = run("bench", "svc", "--json", "--", "--log-level", "debug")
    assert answer.code == 2
    assert "measured as it is: --;" in answer.error["message"]


def test_a_profile_is_started_measured_and_stopped(profile: Home, run: Run) -> None:
    answer = run("bench", "svc", *SHORT, "--json")
    assert answer.code == 0, answer.out
    assert answer.data["started"] is True
    assert [row["requests"] for row in answer.data["rows"]] == [5, 5]
    assert "stopped in" in answer.err
    profile.assert_nothing_left()
    assert len(read_bench(dirs().runs / answer.data["run"])) == 2


def test_a_profile_is_stopped_also_where_measuring_breaks(
    profile: Home, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Row:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("launcher.bench.load.measure_level", broken)
    answer = run("bench", "svc", *SHORT, "--json")
    assert answer.code == ExitCode.UNEXPECTED
    profile.assert_nothing_left()


def test_another_name_is_another_service(profile: Home, run: Run) -> None:
    """A running service of the profile's name is not in the way."""
    profile.up(profile.plan())
    answer = run("bench", "svc", "--name", "other", *SHORT, "--json")
    # The stand-in's plan is named svc whatever is asked for, so the start is what is refused.
    assert (answer.code, answer.error["code"]) == (9, "already_running")


PROGRAM = """
import functools, sys
from pathlib import Path
from types import SimpleNamespace
import msgspec
from launcher.cli import bench, main, up
from launcher.documents.plan import Plan
from launcher.service import control as client
plan = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan)
client.launch = functools.partial(client.launch, entry=tuple(sys.argv[2].split("|")))
bench.named_model.names_start = lambda name, folder: True
up.prepare = lambda request, say: SimpleNamespace(plan=plan)
up.require_fit = lambda prepared: None
sys.exit(main.main(sys.argv[3:]))
"""


@pytest.mark.parametrize(
    ("number", "before"),
    [
        (signal.SIGINT, ()),
        (signal.SIGTERM, ()),
        (signal.SIGHUP, ()),
        # What `nohup qlaunch bench … &` of a shell without job control hands on.
        (signal.SIGINT, (signal.SIGINT, signal.SIGHUP)),
        (signal.SIGTERM, (signal.SIGINT, signal.SIGHUP)),
    ],
    ids=["int", "term", "hup", "int-in-the-background", "term-in-the-background"],
)
def test_ended_half_way_it_keeps_what_was_measured_and_leaves_nothing(
    home: Home, tmp_path: Path, number: signal.Signals, before: tuple[signal.Signals, ...]
) -> None:
    plan = tmp_path / "plan"
    plan.write_bytes(msgspec.json.encode(home.plan()))
    words = ("bench", "svc", "--tokens", "20", "--batch", "1,2,3", "--requests", "1000000")
    bounded = (*words, "--seconds", "1.5", "--json")
    process = subprocess.Popen(
        [
            *(*ignoring(*before), sys.executable, "-c", PROGRAM),
            *(str(plan), "|".join(home.entry), *bounded),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    runs = dirs().runs

    def kept() -> list[Any]:
        return [each for run in runs.glob("*") for each in read_bench(run)]

    with process:
        try:
            eventually(lambda: kept() or process.poll() is not None)
            time.sleep(0.3)  # into the second level
            process.send_signal(number)
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 130, err
    document = json.loads(out)
    assert (document["status"], document["exit_code"]) == ("partial", 130)
    assert document["errors"][0]["code"] == "interrupted"
    rows = document["data"]["rows"]
    assert rows[0]["reason"] is None
    assert rows[0]["requests"] > 0
    assert [row["reason"] for row in rows[1:]] in ([], ["interrupted"])
    assert json.loads(msgspec.json.encode([row for each in kept() for row in each.rows])) == rows
    home.assert_nothing_left()
    assert not processes.is_alive(processes.process_id(process.pid))


def test_the_grid_is_every_combination() -> None:
    closed = grid((1, 16), (1, 4), (Length(128),))
    assert [(level.clients, level.batch) for level in closed] == [(1, 1), (1, 4), (16, 1), (16, 4)]
    assert {level.loop for level in closed} == {"closed"}
    assert grid(None, (1,), (Length(128),)) == (Level(),)
    (opened,) = grid(None, (1,), (Length(128),), (5.0,), "constant")
    assert opened == Level(loop="open", clients=64, rate=5.0, arrivals="constant")


def test_many_clients_get_requests_enough() -> None:
    assert requests_of(Level(), None) == 100
    assert requests_of(Level(clients=16), None) == 400
    assert requests_of(Level(loop="open", clients=64, rate=1.0), None) == 100
    assert requests_of(Level(clients=16), 7) == 7


def row(**changes: Any) -> Row:
    values: dict[str, Any] = {
        "mode": "m",
        "batch": 4,
        "clients": 16,
        "mean_ms": 1234.5,
        "p50_ms": 12.345,
        "p95_ms": 0.01234,
        "p99_ms": 100.0,
        "embeddings_per_s": 101.5,
        "tokens_per_s": None,
        "ram_peak_bytes": 1_300_000_000,
        "gpu_peak_bytes": None,
        "requests": 10,
    }
    return Row(**{**values, **changes})


def test_a_table_has_the_columns_that_have_something_in_them() -> None:
    plain = benchtable.rows_table([row()])
    assert plain[0].split() == [
        *("CLIENTS", "BATCH", "TOKENS", "MEAN", "MS", "P50", "P95", "P99"),
        *("N", "EMB/S", "TOKENS/S", "RAM"),
    ]
    assert plain[1].split() == [
        *("16", "4", "128", "1234", "12.3", "0.012", "100", "10", "102", "-", "1.30", "GB"),
    ]
    other = row(gpu_peak_bytes=5, errors=3, rate=2.5, loop="open")
    assert {"GPU", "ERRORS", "RATE/S"} <= set(benchtable.rows_table([other])[0].split())


def test_what_a_reader_must_know_is_said() -> None:
    found = benchtable.remarks(
        [
            row(errors=2, error="HTTP 500: x"),
            row(saturated=True, client_cpu_percent=97.0),
            row(tokens_counted=126.5),
            row(ram_peak_bytes=None, memory_method={"ram_reason": "no right"}),
        ],
        0.4,
    )
    assert [line.partition(": ")[2] for line in found] == [
        "measure again when it is quiet",
        "2 failed, the first with: HTTP 500: x",
        "the client itself used 97 % of a core: the engine may be faster",
        "texts had 126.5 tokens",
        "memory was not measured: no right",
    ]
    assert benchtable.remarks([row()], 0.95) == []
    assert benchtable.remarks([row()], None) == []
