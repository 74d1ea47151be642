"""`recommend`, `plan` for another machine, `profiles list` in buckets, `up` without a profile."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from launcher.app.candidates import past_runs
from launcher.engine import releases
from launcher.paths import dirs
from launcher.record.bench import append_bench
from tests.cli.commandline import Run
from tests.cli.conftest import SetMachine
from tests.cli.services import leave_run
from tests.documents.test_schemas import validator
from tests.report import report_samples
from tests.samples import GIB, gpu, machine, plan
from tools import profile_table


def test_a_t4_one_does_not_sit_at(run: Run, home: Path, on: SetMachine) -> None:
    on(machine())
    data = run("recommend", "--gpu", "T4", "--json").data
    assert (data["profile"], data["engine"]["release"]) == ("t4-fp16", "turing")
    argv = data["engine"]["argv"]
    assert argv[argv.index("--dtype") + 1] == "half"
    assert argv[argv.index("--attention-backend") + 1] == "triton"
    assert data["memory"]["predicted"]["gpu_bytes"] < 15 * GIB
    assert data["evidence"]["measured"] is False
    assert data["hardware"]["assumed"]
    assert {p["bucket"] for p in data["profiles"]} <= {"runs", "one_change", "cannot"}


@pytest.mark.parametrize("card", ["V100", "Tesla P100-PCIE-16GB", "gtx 1080"])
def test_cards_that_no_engine_runs_on_are_refused(
    run: Run, home: Path, on: SetMachine, card: str
) -> None:
    on(machine())
    for words in (["recommend"], ["plan"], ["plan", "gpu-4gb"]):
        answer = run(*words, "--gpu", card, "--json")
        assert answer.code == 4, words
        assert answer.error["code"] == "does_not_fit"
        assert "no SGLang release has kernels for it" in answer.error["message"]


def test_a_machine_with_such_a_card_still_has_its_cpu(run: Run, home: Path, on: SetMachine) -> None:
    on(machine(gpus=(gpu("Tesla V100-SXM2-16GB", (7, 0), 16 * GIB),)))
    data = run("recommend", "--json").data
    assert data["profile"] == "cpu-minilm"
    assert any("no SGLang release has kernels" in reason for reason in data["reasons"])


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--gpu", "RTX 3061"], "gpu_unknown"),
        (["--vram", "4G"], "size_invalid"),
        (["--vram", "-1"], "size_invalid"),
        (["--gpu", "T4", "--driver", "new"], "usage"),
        (["--gpu", ""], "usage"),
    ],
)
def test_what_describes_no_machine_is_refused(
    run: Run, home: Path, on: SetMachine, words: list[str], code: str
) -> None:
    on(machine())
    for command in ("recommend", "plan"):
        answer = run(command, *words, "--json")
        assert (answer.code, answer.error["code"]) == (2, code)


def test_a_plan_for_a_card_one_does_not_sit_at_needs_neither_engine_nor_model(
    run: Run, home: Path, on: SetMachine
) -> None:
    on(machine())
    data = run("plan", "a10-bf16", "--gpu", "A10G", "--driver", "535.183", "--json").data
    assert data["engine"]["release"] == "cuda12"
    assert "--disable-overlap-schedule" in data["engine"]["argv"]
    assert data["fits"] is True
    assert any("taken from this machine" in reason for reason in data["reasons"])
    lesser = run("plan", "a10-bf16", "--gpu", "RTX 3050 4GB", "--json").data
    assert lesser["fits"] is False
    assert run("plan", "a10-bf16", "--json").code == 4


def test_a_user_may_name_the_engine_of_another_machine(
    run: Run, home: Path, on: SetMachine
) -> None:
    on(machine())
    found = run("plan", "l4-bf16", "--engine", "cuda12", "--gpu", "L4", "--json")
    assert found.data["engine"]["release"] == "cuda12"
    assert run("plan", "l4-bf16", "--engine", "turing", "--gpu", "L4", "--json").code == 4


def test_profiles_are_sorted_into_three(run: Run, home: Path, on: SetMachine) -> None:
    on(machine(gpus=(gpu("NVIDIA GeForce RTX 3050", (8, 6), 4 * GIB),)))
    found = {p["name"]: p for p in run("profiles", "list", "--json").data["profiles"]}
    assert found["rtx3050-bf16"]["bucket"] == "runs"
    assert found["rtx3050-bf16"]["runs_here"] is True
    assert found["rtx3050-bf16"]["release"] == "cuda13"
    a10 = found["a10-bf16"]
    assert (a10["bucket"], a10["runs_here"]) == ("one_change", False)
    assert a10["change"].startswith("--max-total-tokens ")
    assert a10["saves_bytes"] > 4 * GIB
    assert "predicted to take" in a10["reason"]
    assert found["t4-fp16"]["bucket"] == "cannot"
    assert "compute capability" in found["t4-fp16"]["reason"]
    text = run("profiles", "list").out
    headings = ["runs here", "runs with one change", "cannot run here"]
    assert [text.index(heading) for heading in headings] == sorted(
        text.index(heading) for heading in headings
    )


def test_the_change_is_one_that_plan_accepts(run: Run, home: Path, on: SetMachine) -> None:
    on(machine())
    on_card = ("--gpu", "RTX 3050 4GB")
    listed = run("recommend", *on_card, "--json").data["profiles"]
    change = next(p["change"] for p in listed if p["name"] == "a10-bf16")
    data = run("plan", "a10-bf16", *on_card, "--json", "--", *change.split()).data
    assert data["fits"] is True


def test_up_without_a_profile_takes_the_recommendation(run: Run, ready: Path) -> None:
    assert run("up", "--dry-run", "--json").data["profile"] == "cpu-minilm"
    assert run("recommend", "--json").data["profile"] == "cpu-minilm"


def test_up_passes_over_what_needs_a_checkpoint_that_nobody_gave(
    run: Run, home: Path, on: SetMachine
) -> None:
    on(machine())
    answer = run("plan", "--gpu", "MX450", "--json")
    assert answer.data["profile"] == "gpu-minilm"
    assert run("recommend", "--gpu", "MX450", "--json").data["needs"]


def _record(runs: Path, age: timedelta, **changes: Any) -> str:
    began = datetime.now(UTC) - age
    name = f"{began:%Y%m%dT%H%M%SZ}-cpu-minilm-0a1b"
    (runs / name).mkdir(parents=True)
    run: dict[str, Any] = {
        "version": 1,
        "run": name,
        "service": "cpu-minilm",
        "profile": "cpu-minilm",
        "began": began.isoformat(),
        "outcome": "stopped",
        "smoke": {"ok": True, "checks": []},
        "timings": {"ready_s": 14.5},
        "versions": {"engine": releases.release("cpu").version, "release": "cpu"},
    }
    (runs / name / "run.json").write_text(json.dumps(run | changes))
    return name


def _plan(engine: dict[str, Any], model: str = "all-minilm-l6-v2", **changes: Any) -> Any:
    """The plan of a record whose engine was executed like `engine`."""
    part = {key: engine[key] for key in ("argv", "env")} | changes
    return msgspec.to_builtins(plan(engine=part, model_name=model, fingerprint=""))


def test_evidence_cites_the_run_and_its_age(run: Run, home: Path, on: SetMachine) -> None:
    on(machine())
    runs = home / "state" / "runs"
    _record(runs, timedelta(hours=1), smoke={"ok": False, "checks": []})
    proved = _record(runs, timedelta(days=2, minutes=5))
    (runs / "20200101T000000Z-x-ffff").mkdir()
    evidence = run("recommend", "--json").data["evidence"]
    assert evidence["measured"] is True
    assert evidence["run"] == proved
    assert "2 days ago" in evidence["text"]
    assert evidence["ready_s"] == 14.5
    elsewhere = run("recommend", "--gpu", "T4", "--json").data["evidence"]
    assert elsewhere["measured"] is False


def _comparison(home: Path, argv: list[str], version: str) -> None:
    level = {"clients": 16, "batch": 1, "tokens": 128}
    spread = {"median": 60.0, "least": 58.0, "most": 61.0, "count": 3}
    folder = home / "state" / "comparisons" / "20260101T000000Z-compare-0a1b"
    folder.mkdir(parents=True)
    mode = {
        "name": "cpu-minilm",
        "kind": "profile",
        "outcome": "measured",
        "profile": "cpu-minilm",
        "argv": argv,
        "version": version,
        "cells": [{"level": level, "embeddings_per_s": spread, "p50_ms": spread}],
    }
    plain = {**mode, "name": "plain", "kind": "baseline", "profile": None}
    plain["cells"] = [{"level": level, "embeddings_per_s": {**spread, "median": 7.5}}]
    document = {
        "version": 1,
        "made": "2026-01-01T00:00:00Z",
        "complete": True,
        "repeats": 3,
        "levels": [level],
        "modes": [mode, plain],
    }
    (folder / "comparison.json").write_text(json.dumps(document))


def test_evidence_tells_what_supports_from_what_is_stale(
    run: Run, home: Path, on: SetMachine
) -> None:
    on(machine())
    runs, version = home / "state" / "runs", releases.release("cpu").version
    engine = run("recommend", "--json").data["engine"]
    same = _plan(engine)
    other = _plan(engine, argv=[*engine["argv"], "--enable-metrics"])
    slower = _plan(engine, env={"OMP_NUM_THREADS": "1"})
    _record(runs, timedelta(hours=1), plan=other)
    _record(runs, timedelta(hours=2), plan=slower)
    _record(runs, timedelta(hours=3), versions={"engine": "0.5.14", "release": "cpu"})
    assert run("recommend", "--json").data["evidence"]["measured"] is False
    proved = _record(runs, timedelta(days=3), plan=same)
    row = replace(
        report_samples.BENCH[0], batch=1, embeddings_per_s=61.0, p50_ms=260.0, p95_ms=None
    )
    append_bench(runs / proved, report_samples.measurement([row]))
    _comparison(home, engine["argv"], version)
    evidence = run("recommend", "--json").data["evidence"]
    assert (evidence["measured"], evidence["run"]) == (True, proved)
    validator("evidence").validate(evidence)
    cited = evidence["runs"]
    assert [each["stale"] for each in cited] == [False, True, True, True]
    assert cited[0]["bench"][0]["embeddings_per_s"] == 61.0
    assert cited[0]["bench"][0]["p95_ms"] is None
    assert cited[1]["differs"] == ["--enable-metrics: set then, absent now"]
    assert cited[2]["differs"] == ["1 threads then, 4 now"]
    assert "SGLang 0.5.14 then" in cited[3]["differs"][0]
    compared = evidence["comparisons"][0]
    assert (compared["stale"], compared["gain"]) == (False, 8.0)
    text = run("recommend").out
    assert f"run {proved}, 3 days ago" in text
    assert "16 clients, 1 text of 128 tokens: 61.0 texts/s, p50 260.0 ms" in text
    assert "8.0 × the plain command" in text
    assert "stale: 1 threads then, 4 now" in text
    _record(runs, timedelta(minutes=1), plan=_plan(engine, model="other"))
    assert run("recommend", "--json").data["evidence"]["run"] == proved  # not that newer one


def test_without_runs_nothing_is_called_measured(run: Run, home: Path, on: SetMachine) -> None:
    on(machine())
    evidence = run("recommend", "--json").data["evidence"]
    assert (evidence["measured"], evidence["runs"], evidence["comparisons"]) == (False, [], [])
    assert "no run on this host supports this yet: qlaunch up cpu-minilm" in evidence["text"]


def test_a_plan_cites_its_runs_too(run: Run, ready: Path) -> None:
    planned = run("plan", "cpu-minilm", "--json").data
    assert planned["evidence"]["measured"] is False
    engine = planned["engine"]
    proved = _record(ready / "state" / "runs", timedelta(hours=1), plan=_plan(engine))
    again = run("plan", "cpu-minilm", "--json").data["evidence"]
    assert (again["measured"], again["run"]) == (True, proved)
    changed = run("plan", "cpu-minilm", "--json", "--", "--max-running-requests", "8")
    assert changed.data["evidence"]["measured"] is False
    assert "evidence" not in run("plan", "t4-fp16", "--gpu", "T4", "--json").data


def test_text_says_what_to_type_and_why(run: Run, home: Path, on: SetMachine) -> None:
    on(machine())
    text = run("recommend").out
    assert "start     qlaunch up cpu-minilm" in text
    assert "because" in text
    assert "not measured" in text


def test_a_profile_naming_a_release_there_is_none_of_is_not_valid(
    run: Run, home: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "title: t\nhardware: {device: cuda}\nengine: auto\nmodel: m\n"
        "flags_by_engine:\n  cuda31: {disable-cuda-graph: true}\n"
    )
    answer = run("profiles", "validate", str(path), "--json")
    assert answer.code == 2
    assert "cuda31" in answer.error["message"]


def test_the_page_of_profiles_is_the_one_the_profiles_say() -> None:
    written = profile_table.DOCUMENT.read_text("utf-8")
    assert written == profile_table.document(), "run: python -m tools.profile_table"


def test_a_model_whose_card_has_no_sizes_is_judged_by_its_files(run: Run, ready: Path) -> None:
    """It was called "not here yet", and never recommended."""
    card = ready / "config" / "profiles" / "models" / "all-minilm-l6-v2.yaml"
    text = card.read_text("utf-8")
    card.write_text(re.sub(r"(?m)^shape:\n(?: .*\n)+", "", text))
    assert card.read_text("utf-8") != text
    judged = {each["name"]: each for each in run("recommend", "--json").data["profiles"]}
    assert judged["cpu-minilm"]["reason"] is None
    assert judged["cpu-minilm"]["bucket"] == "runs"


def test_a_replica_s_run_is_no_evidence_for_a_service(home: Path) -> None:
    """What it imported was shared: alone it takes more memory and a longer start."""
    for number, part_of in enumerate((None, "svc")):
        made = plan(part_of=part_of)
        leave_run(f"20260101T00000{number}Z-svc-000{number}", "svc", plan=made)
    assert [run.run for run in past_runs(dirs())] == ["20260101T000000Z-svc-0000"]
