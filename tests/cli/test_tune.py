"""`tune`: the profile it writes, what it leaves alone, and what it tries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.app import contenders, test_conditions, tuning_space
from launcher.app.prepare import Request, prepare
from launcher.bench.trial import Contender
from launcher.bench.tune import Overlay
from launcher.cli import tune
from launcher.errors import ExitCode, QlaunchError
from tests.bench.scripted import Scripted, ScriptedTools
from tests.cli.commandline import Run
from tests.cli.conftest import SetMachine
from tests.samples import gpu, machine

RATES: dict[str, float] = {"dtype float32": 5.0, "threads 2, dp-size 2": 90.0}
"""Texts a second by candidate; all others answer ten."""


class Bench:
    """The engines of a test: scripted, by what a candidate changes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.made: list[Scripted] = []
        self.rates = dict(RATES)
        self.refused: set[str] = set()
        self.tools = ScriptedTools(self.made, self.events)
        monkeypatch.setattr(tune.Work, "contender", lambda _, *given: self.contender(*given))
        monkeypatch.setattr(test_conditions, "tools", lambda *_, **__: self.tools)
        monkeypatch.setattr(test_conditions, "idle", lambda: None)

    def contender(self, overlay: Overlay, label: str) -> Contender:
        rate = self.rates.get(overlay.words, 10.0)
        made = Scripted(label, self.events, rate=lambda _life, _level: rate)
        if any(word in overlay.words for word in self.refused):
            made.outcome = "cannot_run"
        self.made[:] = [each for each in self.made if each.name != label] + [made]
        return made


@pytest.fixture
def bench(ready: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_what_wins_is_written_as_a_profile_that_runs(run: Run, bench: Bench, ready: Path) -> None:
    answer = run("tune", "cpu-minilm", "--repeats", "2", "--quiet", "--json")
    assert answer.code == 0, answer.out
    data = answer.data
    path = ready / "config" / "profiles" / "cpu-minilm-tuned.yaml"
    assert (data["confirmed"], data["output"]) == (True, str(path))
    assert data["pick"] == {"settings": {"threads": 2}, "flags": {"dp-size": 2}}
    assert data["trials"][0]["overlay"] == {"settings": {}, "flags": {}}
    text = path.read_text("utf-8")
    comments = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    for said in ("90.0 texts/s", "10.0 texts/s", "run-cpu-minilm-tuned-1", "Machine: test, 4"):
        assert said in comments
    assert "  # An idle scheduler spins a whole core otherwise: measured 100.8 %" in text
    assert "  dp-size: 2 # tuned; not there before\n" in text
    assert data["id"] in comments
    assert data["made"] in comments
    assert run("profiles", "validate", "cpu-minilm-tuned").code == 0
    shown = run("profiles", "show", "cpu-minilm-tuned", "--resolved", "--json").data["resolved"]
    assert (shown["threads"], shown["flags"]["dp-size"]) == (2, 2)
    old = run("profiles", "show", "cpu-minilm", "--resolved", "--json").data["resolved"]
    assert {**old["flags"], "dp-size": 2} == shown["flags"]
    argv = run("plan", "cpu-minilm-tuned", "--json").data["engine"]["argv"]
    assert argv[argv.index("--dp-size") + 1] == "2"


def test_a_profile_that_is_there_is_not_replaced(run: Run, bench: Bench, ready: Path) -> None:
    path = ready / "config" / "profiles" / "cpu-minilm-tuned.yaml"
    path.write_text("mine")
    answer = run("tune", "cpu-minilm", "--json")
    assert (answer.code, answer.error["code"]) == (9, "output_exists")
    assert path.read_text() == "mine"
    assert bench.events == []
    assert run("tune", "cpu-minilm", "--force", "--quiet").code == 0
    assert "dp-size: 2" in path.read_text()


def test_nothing_better_writes_nothing_unless_asked(
    run: Run, bench: Bench, ready: Path, tmp_path: Path
) -> None:
    bench.rates.clear()
    data = run("tune", "cpu-minilm", "--quiet", "--json").data
    assert (data["pick"], data["output"]) == (None, None)
    assert any("Nothing beat cpu-minilm" in sentence for sentence in data["verdict"])
    assert not (ready / "config" / "profiles" / "cpu-minilm-tuned.yaml").exists()
    file = tmp_path / "evidence.yaml"
    run("tune", "cpu-minilm", "--output", str(file), "--quiet", "--json")
    assert "Nothing was changed" in file.read_text()
    assert run("profiles", "validate", str(file)).code == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--tokens", "100000"), "usage", "--tokens 100000: a text of all-minilm-l6-v2 has "),
        (
            ("--batch", "5000"),
            "usage",
            "--batch 5000: a call to all-minilm-l6-v2 has 2048 texts at most",
        ),
        (("--tokens", "1"), "usage", "--tokens 1: a text of all-minilm-l6-v2 has 3 to "),
        (("--output", "My Tuned.yaml"), "profile_invalid", "cannot name a profile"),
        (("--output", "absent/x.yaml"), "usage", "there is no folder "),
    ],
)
def test_what_cannot_come_to_anything_is_refused_before_the_search(
    run: Run, bench: Bench, words: tuple[str, ...], code: str, said: str
) -> None:
    """An engine was started first; the profile that was written could not be used."""
    answer = run("tune", "cpu-minilm", *words, "--quiet", "--json")
    assert (answer.code, answer.error["code"]) == (2, code)
    assert said in answer.error["message"]
    assert bench.events == []


def test_what_does_not_fit_is_never_started(run: Run, bench: Bench) -> None:
    bench.refused = {"dp-size"}
    data = run("tune", "cpu-minilm", "--quiet", "--json").data
    assert data["pick"] is None
    refused = [t for t in data["trials"] if "dp-size" in t["overlay"]["flags"]]
    assert {trial["outcome"] for trial in refused} == {"refused"}
    assert all(trial["reason"] and trial["row"] is None for trial in refused)


def test_trials_and_budget_bound_it(run: Run, bench: Bench) -> None:
    data = run("tune", "cpu-minilm", "--trials", "3", "--quiet", "--json").data
    assert len(data["trials"]) == 3
    assert "--trials" in data["ended"]


@pytest.mark.parametrize("at", [1, 4, 14])
def test_an_interrupt_keeps_the_trials_and_writes_no_profile(
    run: Run, bench: Bench, ready: Path, at: int
) -> None:
    bench.tools.interrupt_at = at
    answer = run("tune", "cpu-minilm", "--quiet", "--json")
    assert (answer.code, answer.error["code"]) == (130, "interrupted")
    kept = json.loads(Path(answer.data["path"]).read_text())
    assert kept["complete"] is False
    assert len(kept["trials"]) == len(answer.data["trials"]) >= min(at - 1, 3)
    assert not list((ready / "config" / "profiles").glob("*tuned*"))
    assert bench.events[-1].startswith("stop")


def test_a_profile_that_does_not_start_cannot_be_tuned(
    run: Run, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_overlay: Overlay, label: str) -> Contender:
        return Scripted(label, bench.events, fails=lambda _life: "it died")

    monkeypatch.setattr(tune.Work, "contender", lambda _, *given: broken(*given))
    answer = run("tune", "cpu-minilm", "--quiet", "--json")
    assert (answer.code, answer.error["code"]) == (6, "default_failed")


def test_what_does_not_fit_this_machine_cannot_be_tuned(run: Run, ready: Path) -> None:
    assert run("tune", "t4-fp16", "--json").code == 4


def words_of(name: str, dimension: str) -> list[str]:
    prepared = prepare(Request(name, {}, fetch=False), lambda _: None)
    found = {each.name: each for each in tuning_space.dimensions(prepared)}
    return [o.words for o in found[dimension].options] if dimension in found else []


def test_what_is_worth_trying(ready: Path, on: SetMachine) -> None:
    assert words_of("cpu-minilm", "dtype") == ["dtype float32", "dtype int8"]
    assert words_of("cpu-minilm", "replicas × threads") == [
        *("threads 2", "threads 2, dp-size 2", "threads 1, dp-size 3", "threads 1, dp-size 4"),
    ]
    assert words_of("cpu-minilm", "running requests") == [
        *("max-running-requests 32", "max-running-requests 128"),
    ]
    assert words_of("cpu-minilm", "chunk") == []  # an encoder must see the whole text
    assert words_of("cpu-minilm", "attention backend") == []
    on(machine(vectors=False))
    assert words_of("cpu-minilm", "dtype") == ["dtype float32"]
    on(machine(bf16=False, threads=1))
    assert words_of("cpu-minilm", "dtype") == ["dtype int8"]
    assert words_of("cpu-minilm", "replicas × threads") == []


def test_backends_by_card() -> None:
    cpu = machine().cpu
    cards = {(7, 5): [], (8, 6): ["flashinfer"], (9, 0): ["flashinfer", "fa3"]}
    for capability, names in cards.items():
        card = gpu(capability=capability)
        found = tuning_space._backends({"attention-backend": "triton"}, cpu, (card,), on_cpu=False)
        assert [each.flags["attention-backend"] for each in found] == names


def test_candidates_reach_the_plan_as_settings(ready: Path) -> None:
    overlay = Overlay(settings={"threads": 1, "dtype": "float32"}, flags={"dp-size": 2})
    made, prepared = contenders.profile_contender(
        "cpu-minilm", lambda _: None, command_name="tune", fetch=False, given=overlay.given
    )
    assert prepared is not None
    argv = prepared.plan.engine.argv
    assert argv[argv.index("--dtype") + 1] == "float32"
    assert argv[argv.index("--dp-size") + 1] == "2"
    assert prepared.plan.engine.env["OMP_NUM_THREADS"] == "1"
    assert prepared.plan.service == "tune-cpu-minilm"
    assert made.facts.outcome == "not_reached"


def test_a_candidate_that_does_not_fit_is_refused(ready: Path, on: SetMachine) -> None:
    big = Overlay(flags={"max-total-tokens": 100_000_000, "max-prefill-tokens": 100_000_000})
    made, prepared = contenders.profile_contender(
        "cpu-minilm", lambda _: None, command_name="tune", fetch=False, given=big.given
    )
    assert prepared is None
    assert made.facts.outcome == "cannot_run"
    assert "does_not_fit" in str(made.facts.reason)
    with pytest.raises(QlaunchError) as error:
        contenders.profile_contender("absent", print, command_name="tune", fetch=False)
    assert error.value.exit_code is ExitCode.USAGE
