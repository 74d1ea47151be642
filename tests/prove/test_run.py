"""Going through an agenda: what fails, what is cut short, and what goes on afterwards."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest

from launcher.documents.proof import Proof, ProvedMachine, StepRecord
from launcher.paths import dirs
from launcher.prove import bundle, calls, drills, page, run
from launcher.prove.agenda import Chapter, Step
from launcher.prove.calls import call

Answers = dict[str, StepRecord]
LATER = 1e9


def record(name: str, outcome: str = "ok", **more: object) -> StepRecord:
    found = {"name": name, "command": f"qlaunch {name}", "outcome": outcome, **more}
    return msgspec.convert(found, StepRecord)


def proof() -> Proof:
    machine = ProvedMachine(cpu="a <b>CPU</b>", memory_bytes=2**34, driver="1")
    return Proof(id="p", qlaunch="0", began="then", minutes=1.0, device="cpu", machine=machine)


def life(name: str) -> Chapter:
    steps = (
        Step("up", ("up", name), 10.0),
        Step("vectors", ("verify", name), 10.0),
        Step("load", ("bench", name), 10.0),
        Step("memory", ("status", name), 10.0),
        Step("down", ("down", name), 10.0, always=True),
    )
    return Chapter(name, name, steps, services=(name,))


class Program:
    """Answers calls of the program as told, and remembers them."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.told: dict[str, Callable[[], StepRecord]] = {}

    def call(self, name: str, words: tuple[str, ...], _limit_s: float) -> StepRecord:
        said = " ".join(words)
        self.seen.append(said)
        answer = self.told.get(said, lambda: record(name))()
        return msgspec.structs.replace(answer, command=f"qlaunch {said}")


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Program:
    found = Program()
    monkeypatch.setattr(calls, "call", found.call)
    return found


def go(agenda: list[Chapter], folder: Path, begun: Proof | None = None) -> Proof:
    return run.run(begun or proof(), agenda, folder, time.monotonic() + LATER, lambda _: None)


def test_a_step_that_fails_is_written_down_and_the_rest_goes_on(
    program: Program, tmp_path: Path
) -> None:
    program.told["verify a"] = lambda: record("vectors", "failed", exit_code=7, why="cosine 0.2")
    found = go([life("a"), life("b")], tmp_path)
    assert [c.outcome for c in found.chapters] == ["failed", "ok"]
    assert found.chapters[0].why == "vectors: cosine 0.2"
    assert program.seen[:3] == ["up a", "verify a", "down a"]
    assert "bench a" not in program.seen
    assert [(c.profile, c.ok) for c in found.claims] == [("a", False), ("b", True)]
    assert found.ended is not None
    assert json.loads((tmp_path / run.DOCUMENT).read_text())["chapters"][0]["outcome"] == "failed"


def test_what_there_is_no_time_for_is_named_and_done_by_the_next_call(
    program: Program, tmp_path: Path
) -> None:
    agenda = [life("a"), life("b")]
    short = run.run(proof(), agenda, tmp_path, time.monotonic(), lambda _: None)
    assert [c.outcome for c in short.chapters] == ["timed_out", "timed_out"]
    assert program.seen == []
    program.told["verify b"] = lambda: record("vectors", "failed", why="no")
    second = go(agenda, tmp_path, short)
    assert [c.outcome for c in second.chapters] == ["ok", "failed"]
    program.seen.clear()
    third = go(agenda, tmp_path, second)
    assert program.seen == []  # what ended, well or not, is not done again
    assert third.chapters == second.chapters


def test_a_step_that_hangs_has_failed_and_is_not_tried_for_ever(
    program: Program, tmp_path: Path
) -> None:
    program.told["verify a"] = lambda: record("vectors", "timed_out", why="it did not end")
    found = go([life("a")], tmp_path)
    assert found.chapters[0].outcome == "failed"
    near_end = time.monotonic() + 9.0  # less than the step's own limit
    cut = run.run(proof(), [life("a")], tmp_path, near_end, lambda _: None)
    assert cut.chapters[0].outcome == "timed_out"


def test_a_doctor_s_warning_is_a_finding_and_its_problem_a_failure(
    program: Program, tmp_path: Path
) -> None:
    step = Step("host", ("doctor",), 10.0, accepts=(0, 1))
    outcomes = []
    for code in (1, 2):
        program.told["doctor"] = partial(record, "host", "failed", exit_code=code, why="w")
        outcomes.append(go([Chapter("machine", "machine", (step,))], tmp_path).chapters[0].outcome)
    assert outcomes == ["ok", "failed"]


def test_ctrl_c_takes_down_what_runs_and_the_next_call_begins_that_chapter_anew(
    program: Program, tmp_path: Path
) -> None:
    def interrupt() -> StepRecord:
        raise KeyboardInterrupt

    program.told["bench b"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        go([life("a"), life("b"), life("c")], tmp_path)
    assert program.seen[-1] == "down b"
    cut = msgspec.json.decode((tmp_path / run.DOCUMENT).read_bytes(), type=Proof)
    assert [c.outcome for c in cut.chapters] == ["ok", "interrupted"]
    assert cut.ended is None
    del program.told["bench b"]
    program.seen.clear()
    whole = go([life("a"), life("b"), life("c")], tmp_path, cut)
    assert [c.outcome for c in whole.chapters] == ["ok", "ok", "ok"]
    assert program.seen[0] == "down b"
    assert "up a" not in program.seen


def test_a_chapter_that_cannot_be_done_here_is_skipped(program: Program, tmp_path: Path) -> None:
    found = go([Chapter("x", "x", absent="no model")], tmp_path)
    assert [(c.outcome, c.why) for c in found.chapters] == [("skipped", "no model")]


def test_figures_of_a_profile_come_from_its_steps(program: Program, tmp_path: Path) -> None:
    up = {
        "profile": "t4-fp16", "engine": {"release": "turing"}, "smoke": {"worst_cosine": 0.9995},
        "timings": {"ready_s": 31.0},
    }  # fmt: skip
    measured = {"ram_peak_bytes": 5, "gpu_peak_bytes": 180, "method": {"gpu": "nvml"}}
    memory = {"predicted": {"ram_bytes": 4, "gpu_bytes": 200}, "measured": measured}
    quality = {"quality": {"recall_difference": 0.0}}
    program.told["up a"] = lambda: record("up", data=up)
    program.told["verify a"] = lambda: record("vectors", data=quality)
    program.told["status a"] = lambda: record("memory", data={"memory": memory})
    (claim,) = go([life("a")], tmp_path).claims
    assert (claim.profile, claim.release, claim.ok) == ("t4-fp16", "turing", True)
    assert (claim.gpu_predicted_bytes, claim.gpu_measured_bytes) == (200, 180)
    assert (claim.worst_cosine, claim.recall_difference, claim.gpu_method) == (0.9995, 0.0, "nvml")


@pytest.mark.parametrize(
    ("after", "outcome"),
    [({"state": "ready", "pid": 2}, "ok"), ({"state": "failed", "pid": None}, "failed")],
)
def test_a_killed_engine_must_be_followed_by_another(
    after: dict[str, object], outcome: str, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    states = iter([{"state": "ready", "pid": 4711, "supervisor_pid": 4710}])
    program.told["status s"] = lambda: record("status", data=next(states, after))
    monkeypatch.setattr("os.kill", lambda pid, _signal: killed.append(pid))
    monkeypatch.setattr("time.sleep", lambda _: None)
    limit_s = 0.2
    found = drills.run(Step("drill", ("s",), limit_s, kind="engine_killed"), limit_s)
    assert killed == [4711]
    assert found.outcome == outcome


def test_a_service_without_processes_cannot_be_killed(program: Program) -> None:
    program.told["status s"] = lambda: record("status", data={"pid": None})
    found = drills.run(Step("drill", ("s",), 1.0, kind="supervisor_killed"), 1.0)
    assert (found.outcome, found.why) == ("failed", "status names no supervisor")


class TestCalls:
    def test_a_real_call_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path))
        found = call("models", ("model", "list"), 120.0)
        assert (found.outcome, found.exit_code) == ("ok", 0)
        assert found.data["models"]

    def test_a_real_failure_is_one_sentence(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path))
        found = call("status", ("status", "absent"), 120.0)
        assert (found.outcome, found.exit_code) == ("failed", 3)
        assert "there is no service 'absent'" in (found.why or "")

    def test_one_that_takes_too_long_is_ended(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path))
        found = call("top", ("top",), 0.05)
        assert found.outcome == "timed_out"

    def test_neither_secrets_nor_folders_of_the_user_are_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path / "q"))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
        environment = tmp_path / "srv" / "mine"
        environment.mkdir(parents=True)
        (environment / "pyvenv.cfg").touch()
        monkeypatch.setenv("QLAUNCH_ENGINE_PYTHON", str(environment / "bin" / "python"))
        text = f"{tmp_path}/q/runs {tmp_path}/x hf_verysecret {environment}/bin/sglang"
        assert calls.scrub(text) == "$QLAUNCH_HOME/runs ~/x [redacted] $ENGINE/bin/sglang"
        # It may be the word `path`, and a system's own Python has no folder of its own.
        for python in ("path", "/usr/bin/python3"):
            monkeypatch.setenv("QLAUNCH_ENGINE_PYTHON", python)
            assert calls.scrub("path /usr/bin/python3") == "path /usr/bin/python3"


def test_the_bundle_holds_the_records_and_no_secret(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path / "q"))
    monkeypatch.setenv("MY_API_KEY", "sesame-open")
    where = dirs()
    (where.runs / "r1").mkdir(parents=True)
    (where.runs / "r1" / "run.json").write_text('{"note": "sesame-open"}')
    program.told["up a"] = lambda: record("up", data={"run": "r1"})
    program.told["status a"] = lambda: record("memory", data={"run": "../../etc/passwd"})
    folder = tmp_path / "p"
    folder.mkdir()
    path = bundle.write(go([life("a")], folder), folder, where)
    with tarfile.open(path) as archive:
        files = {m.name: archive.extractfile(m) or io.BytesIO() for m in archive.getmembers()}
        texts = {name: file.read().decode() for name, file in files.items()}
    assert set(texts) == {"p/README.txt", "p/index.html", "p/proof.json", "p/runs/r1.json"}
    assert "[redacted]" in texts["p/runs/r1.json"]
    assert not any("sesame" in text for text in texts.values())
    assert path.stat().st_mode & 0o077 == 0


def test_the_page_shows_the_levels_of_a_comparison_and_cosines_to_four_digits(
    program: Program, tmp_path: Path
) -> None:
    row = {"batch": 1, "tokens": 128, "p50_ms": 48.25}
    modes = {"modes": [{"name": "offload-t4", "rows": [row]}, {"name": "cannot", "rows": []}]}
    program.told["bench a"] = lambda: record("load", data=modes)
    program.told["up a"] = lambda: record("up", data={"smoke": {"worst_cosine": 0.99987}})
    text = page.html(go([life("a")], tmp_path))
    assert "offload-t4" in text
    assert "48.2" in text
    assert "0.9999" in text
    assert 'class="verdict"' in text


def test_the_page_shows_every_step_and_obeys_no_name(program: Program, tmp_path: Path) -> None:
    program.told["bench a"] = lambda: record(
        "load", data={"rows": [{"batch": 4, "tokens": 128, "p50_ms": 12.5, "mode": "<i>m</i>"}]}
    )
    text = page.html(go([life("a"), Chapter("x", "x", absent="<script>")], tmp_path))
    assert "&lt;b&gt;CPU&lt;/b&gt;" in text
    assert "&lt;script&gt;" in text
    assert "<script>" not in text
    assert "12.5" in text
    assert 'class="verdict bad"' in text
    assert "1 of 2 chapters succeeded (1 skipped)." in text
