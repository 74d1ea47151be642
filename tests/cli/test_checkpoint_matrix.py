"""The matrix of checkpoints without an engine: refusals, and plans of what is served."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints import make_qwen3, page
from tests.checkpoints.edit import config, edited
from tests.checkpoints.matrix import Row, rows, sections
from tests.cli.commandline import Answer, Run

REFUSED, SERVED = rows(served=False), rows(served=True)


def names(found: list[tuple[Row, str]]) -> list[str]:
    return [row.name for row, _ in found]


@pytest.mark.parametrize(("row", "profile"), REFUSED, ids=names(REFUSED))
def test_refused_before_anything_starts(
    row: Row, profile: str, run: Run, ready: Path, tmp_path: Path
) -> None:
    model = row.make(tmp_path / "checkpoint")
    for words in (("plan", profile, "--model", str(model)), ("model", "inspect", str(model))):
        answer = run(*words, "--json")
        assert answer.code == 2, answer.out[:300]
        assert answer.error["code"] == row.code
        held_to_one_sentence(answer, row, model)


def held_to_one_sentence(answer: Answer, row: Row, model: Path) -> None:
    assert len(answer.document["errors"]) == 1
    message, fix = answer.error["message"], answer.error["fix"]
    assert message.startswith(str(model))
    assert "\n" not in message
    for word in row.says:
        assert word in message, message
    assert fix


@pytest.mark.parametrize(("row", "profile"), SERVED, ids=names(SERVED))
def test_planned_and_inspected(
    row: Row, profile: str, run: Run, ready: Path, tmp_path: Path
) -> None:
    model = row.make(tmp_path / "checkpoint")
    plan = run("plan", profile, "--model", str(model), "--json")
    assert plan.code == 0, plan.out[:800]
    said = run("model", "inspect", str(model), "--json")
    assert said.code == 0, said.out[:800]
    assert said.data["context_length"] > 0


def test_rows_have_names_of_their_own() -> None:
    found = [row.name for section in sections() for row in section.rows]
    assert len(found) == len(set(found))
    assert all(name.replace("-", "").replace(".", "").isalnum() for name in found)


def test_the_page_shows_the_matrix() -> None:
    assert page.PAGE.read_text("utf-8") == page.page(), "run: make docs"


@pytest.mark.parametrize(
    "method", ["awq", "gptq", "fp8", "compressed-tensors", "bitsandbytes", "modelopt"]
)
def test_quantised_weights_are_refused_on_a_cpu_and_named(
    method: str, run: Run, ready: Path, tmp_path: Path
) -> None:
    said = config(quantization_config={"quant_method": method, "bits": 4})
    model = edited(make_qwen3, said)(tmp_path / "checkpoint")
    answer = run("plan", "cpu-qwen3-0.6b", "--model", str(model), "--json")
    assert answer.code == 2
    assert answer.error["code"] == "model_unsupported"
    assert f"quantised ({method}), for which the engine has kernels for GPUs only" in str(
        answer.error["message"]
    )
    seen = run("model", "inspect", str(model), "--json")
    assert (seen.code, seen.data["quantization"]) == (0, method)
