"""Files that an earlier version, a crash or a hand has left are read, or answered in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.documents.run import Timings
from launcher.record.runs import list_runs, load_run
from launcher.service import store
from tests.documents.test_schemas import REAL, RECORDED

STATE: dict[str, Any] = json.loads((RECORDED / "services/golden/state.json").read_text("utf-8"))
RUN: dict[str, Any] = json.loads((RECORDED / f"runs/{REAL}/run.json").read_text("utf-8"))


def state(**changes: Any) -> Any:
    return store.decode_state("golden", json.dumps({**STATE, **changes}).encode())


def leave(runs: Path, document: dict[str, Any]) -> Path:
    folder = runs / REAL
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(document))
    return folder


def test_a_state_of_an_earlier_version_is_read_by_attribute() -> None:
    found = state()
    assert found.state == "stopped"
    assert found.predicted.terms[0].name == "weights"
    assert found.predicted.terms[0].kind is None  # it did not say
    assert found.smoke.checks[0].ok is True
    assert found.timings == Timings(ready_s=21.704, verified_s=23.909)
    assert found.phases[-1].name == "stopped"


def test_what_a_later_version_adds_is_passed_over() -> None:
    assert state(new={"a": 1}, smoke={**STATE["smoke"], "new": 1}).smoke.ok is True


@pytest.mark.parametrize(
    ("part", "where"),
    [
        ({"smoke": {"ok": "yes", "checks": []}}, "$.smoke.ok"),
        ({"predicted": {}}, "$.predicted"),
        ({"phases": [{"name": 1, "t_s": 0}]}, "$.phases[0].name"),
        ({"fallbacks": [{"step": "first"}]}, "$.fallbacks[0].step"),
        ({"failure": {"code": "x"}}, "$.failure"),
        ({"measured": [1]}, "$.measured"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_a_state_with_a_damaged_part_is_unknown_and_says_where(
    part: dict[str, Any], where: str
) -> None:
    found = state(**part)
    assert found.state == "unknown"
    assert "its state file is damaged" in found.problem
    assert where in found.problem


@pytest.mark.parametrize("empty", [{}, None])
def test_a_run_without_a_plan_is_whole(tmp_path: Path, empty: object) -> None:
    leave(tmp_path, {**RUN, "plan": empty})
    found = load_run(tmp_path, REAL)
    assert (found.plan, found.outcome) == (None, "stopped")


@pytest.mark.parametrize(
    ("part", "where"),
    [
        ({"plan": {"engine": {"release": "cpu"}}}, "$.plan"),
        ({"smoke": {"checks": "none"}}, "$.smoke"),
        ({"failure": "out of memory"}, "$.failure"),
    ],
    ids=["plan", "smoke", "failure"],
)
def test_a_run_with_a_damaged_part_tells_where_and_the_rest(
    tmp_path: Path, part: dict[str, Any], where: str
) -> None:
    folder = leave(tmp_path, {**RUN, **part})
    found = load_run(tmp_path, REAL)
    assert found.outcome == "broken"
    assert found.failure is not None
    assert found.failure.message.startswith(f"{folder / 'run.json'} is broken: ")
    assert where in found.failure.message
    assert (found.profile, found.began) == (RUN["profile"], RUN["began"])
    assert found.timings.ready_s == RUN["timings"]["ready_s"]
    [summary] = list_runs(tmp_path)
    assert summary.failure_class == "record_broken"
