"""Where the time goes: stacks sorted to the parts of a text's way, and drawn."""

from __future__ import annotations

import stat
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec
import pytest

from launcher.bench import profiling
from launcher.cli import benchtable
from launcher.documents.comparison import Frame, Profile, Row
from launcher.errors import ExitCode, QlaunchError
from launcher.report import flame
from launcher.report.run import bench_row
from tests.bench.scripted import ONE, row
from tests.patience import eventually

FRONT = 'process 7:"/e/python sglang serve --model-path /m --disable-overlap-schedule"'
START = "launch (engine.py:1);BaseProcess.run (multiprocessing/process.py:108)"
SCHEDULER = f'{FRONT};process 8:"sglang::scheduler";{START}'
DETOKENIZER = f'{FRONT};process 9:"sglang::detokenizer";{START}'
LOOP = "Scheduler.event_loop_normal (scheduler.py:100)"
FORWARD = "ModelRunner.forward (model_runner.py:9)"
RAW = f"""
{FRONT};run (uvicorn/server.py:1);tokenize (a/b.py:2) 20
{FRONT};run (uvicorn/server.py:1);TokenizerManager.handle_loop (tokenizer_manager.py:3) 5
{SCHEDULER};{LOOP};recv (a.py:1) 10
{SCHEDULER};{LOOP};{FORWARD};linear (torch/nn/functional.py:5) 30
{SCHEDULER};{LOOP};{FORWARD};linear (torch/nn/functional.py:6) 30
{DETOKENIZER};loop (sglang/srt/managers/detokenizer_manager.py:1) 5
{FRONT};Thread.run (threading.py:982);_worker (concurrent/futures/thread.py:81) 700
{SCHEDULER};Thread.run (threading.py:982);Condition.wait (threading.py:331) 600
{FRONT} 5
a line without a count
"""


def measured() -> Row:
    return row("svc", ONE, 50.0, requests=40, seconds=1.0)


def test_stacks_are_sorted_to_the_parts_of_a_text_s_way() -> None:
    found = profiling.profile(profiling.read_stacks(RAW), measured())
    assert found.samples == 100
    assert {each.name: each.share for each in found.stages} == {
        "front": 0.2,
        "scheduler": 0.1,
        "model": 0.6,
        "back": 0.1,
    }
    # 60 samples at 100 a second are 0.6 s, for 40 texts.
    assert [each.ms for each in found.stages if each.name == "model"] == [15.0]
    assert found.embeddings_per_s == 50.0


def test_portions_that_threads_of_their_own_compute_are_the_model() -> None:
    """With 16 clients 70 % of a text's time stood under the scheduler."""
    thread = "Thread.run (threading.py:982);_WorkItem.run (concurrent/futures/thread.py:58)"
    compute = "Portions._by_threads.<locals>.compute (qlaunch_sglang/portions.py:61)"
    raw = f"{SCHEDULER};{thread};{compute};linear (torch/nn/functional.py:5) 10\n"
    found = profiling.profile(profiling.read_stacks(raw), measured())
    assert {each.name: each.share for each in found.stages}["model"] == 1.0


def test_lines_of_one_function_are_one_frame_and_small_ones_are_left_out() -> None:
    stacks = [*profiling.read_stacks(RAW), (("front", "rare (x.py:1)"), 0)]
    top = profiling.profile(stacks, measured()).frames
    assert [(each.name, each.share) for each in top] == [
        ("scheduler", 0.7),
        ("front", 0.25),
        ("detokenizer", 0.05),
    ]
    (loop,) = top[0].frames
    forward = loop.frames[0]
    assert forward.name == "ModelRunner.forward (model_runner.py)"
    (linear,) = forward.frames
    assert (linear.name, linear.share) == ("linear (nn/functional.py)", 0.6)


def test_the_frames_fit_a_line_of_a_run_s_record() -> None:
    wide = [
        ((f"f{n} (a.py:1)", *(f"{'g' * 60}{n}-{depth} (b.py:1)" for depth in range(50))), 1)
        for n in range(100)
    ]
    frames = profiling.tree(wide, 100)
    assert len(msgspec.json.encode(frames)) <= profiling.LARGEST
    few = [((f"f{n} (a.py:1)",), 1) for n in range(150)]
    assert len(profiling.tree(few, 150)) == 150


@pytest.mark.parametrize(
    ("stacks", "requests", "said"),
    [([], 40, "no busy thread was seen"), ([(("front",), 3)], 0, "no request was answered")],
)
def test_without_samples_or_texts_there_is_a_reason(
    stacks: list[profiling.Stack], requests: int, said: str
) -> None:
    answered = msgspec.structs.replace(measured(), requests=requests)
    assert profiling.profile(stacks, answered) == Profile(reason=said)


def sampler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """A stand-in for py-spy: a program that does what `body` says."""
    program = tmp_path / "py-spy"
    program.write_text(f"#!{sys.executable}\nimport signal, sys, time\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(profiling, "program", lambda: str(program))


WRITES = f"""
file = sys.argv[sys.argv.index("--output") + 1]
def end(*_):
    open(file, "w").write({RAW!r})
    sys.exit(0)
signal.signal(signal.SIGINT, end)
open(file + ".ready", "w")
while True:  # a signal just before a sleep is acted on after it: no long ones
    time.sleep(0.05)
"""


def test_the_sampler_is_told_to_end_when_the_load_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler(tmp_path, monkeypatch, WRITES)
    folder = tmp_path / "stacks"
    folder.mkdir()
    monkeypatch.setattr("tempfile.TemporaryDirectory", lambda: _Folder(folder))

    def load() -> Row:
        eventually(lambda: list(folder.glob("*.ready")))
        return measured()

    assert profiling.profiled(1, load).samples == 100


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> str:
        return str(self._path)

    def __exit__(self, *_: object) -> None: ...


def test_a_sampler_that_falls_behind_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = "print('py-spy> 1.01s behind in sampling, results may be inaccurate', file=sys.stderr)"
    write = f"open(sys.argv[sys.argv.index('--output') + 1], 'w').write({RAW!r})"
    sampler(tmp_path, monkeypatch, f"{behind}\nsys.stderr.flush()\n{write}")
    folder = tmp_path / "stacks"
    folder.mkdir()
    monkeypatch.setattr("tempfile.TemporaryDirectory", lambda: _Folder(folder))

    def load() -> Row:
        eventually(lambda: any(path.stat().st_size > 100 for path in folder.iterdir()))
        return measured()

    found = profiling.profiled(1, load)
    assert found.behind
    remarks = benchtable.remarks([msgspec.structs.replace(measured(), profile=found)], None)
    assert any("the sampler fell behind" in each for each in remarks)


def test_a_sampler_that_may_not_look_is_a_reason_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = tmp_path / "tried"
    refused = "sys.exit('Error: Permission Denied: try running as root')"
    ready = f"signal.signal(signal.SIGINT, signal.SIG_IGN); open({str(tried)!r}, 'w')"
    sampler(tmp_path, monkeypatch, f"{ready}\n{refused}")

    def load() -> Row:
        eventually(tried.exists)
        return measured()

    found = profiling.profiled(1, load)
    assert found.stages == ()
    assert found.reason == "py-spy kept nothing: Error: Permission Denied: try running as root"
    remarks = benchtable.remarks([msgspec.structs.replace(measured(), profile=found)], None)
    assert any("no profile: py-spy kept nothing" in each for each in remarks)
    assert profiling.profiled(None, measured).reason == "the engine's processes are not known"


def test_without_py_spy_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    monkeypatch.setattr("shutil.which", lambda _name: None)
    with pytest.raises(QlaunchError) as error:
        profiling.program()
    assert (error.value.code, error.value.exit_code) == ("extra_missing", ExitCode.USAGE)
    assert error.value.fix == "/nowhere/python -m pip install 'qlaunch[profile]'"


def test_the_table_and_the_page_show_it() -> None:
    found = profiling.profile(profiling.read_stacks(RAW), measured())
    whole = msgspec.structs.replace(measured(), profile=found)
    lines = benchtable.stages_table([whole])
    assert lines[1].split() == ["MS", "A", "TEXT", "FRONT", "SCHEDULER", "MODEL", "BACK"]
    assert "15.0 (60%)" in lines[2]
    assert benchtable.stages_table([measured()]) == []
    shown = bench_row(whole)
    assert ("model", "15.00", "60%") in shown.stages
    assert shown.flame.startswith("<svg")
    assert bench_row(measured()).flame == ""


def test_a_flame_graph_is_well_formed_whatever_a_frame_is_called() -> None:
    inner = Frame(name='<script>"&\x1b[2J', share=0.25)
    frames = (Frame(name="a", share=0.5, frames=(inner,)), Frame(name="b", share=0.5))
    drawn = flame.graph(frames)
    assert "<script>" not in drawn
    root = ET.fromstring(drawn)
    bars = [
        (float(each.get("x", "")), float(each.get("width", "")), int(each.get("y", "")))
        for each in root.iter("rect")
    ]
    assert bars == [(0.0, 479.4, 0), (0.0, 239.4, flame.ROW), (480.0, 479.4, 0)]
    assert flame.graph(()) == ""
