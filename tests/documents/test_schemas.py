"""The published schemas are those of the types, and the files that are written fit them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from launcher.plan.resolve import make_plan
from tests.plan.inputs import inputs, qwen3
from tools import document_schemas
from tools.document_schemas import DOCUMENTS, FOLDER

RECORDED = Path(__file__).parents[1] / "cli" / "golden" / "home" / "state"
"""The state of a home as an earlier version left it."""
REAL = "20261126T011616Z-golden-aaa7"


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((FOLDER / f"{name}.json").read_text("utf-8")))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_committed_schema_is_that_of_the_type(name: str) -> None:
    text = document_schemas.schema_text(name)
    assert (FOLDER / f"{name}.json").read_text("utf-8") == text, "run: make docs"
    jsonschema.Draft202012Validator.check_schema(json.loads(text))


def test_no_schema_is_of_a_document_that_is_no_more() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(DOCUMENTS)


def test_every_document_and_every_field_with_a_docstring_is_described() -> None:
    state = document_schemas.schema("service-state")
    properties = state["$defs"]["ServiceState"]["properties"]
    assert "ISO 8601" in properties["since"]["description"]
    assert "state.json" in state["description"]
    suite = document_schemas.schema("suite-report")["$defs"]["SuiteReport"]["properties"]
    assert "First five elements" in suite["sample"]["description"]  # a base's field


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("service-state", "services/golden/state.json"),
        ("service-state", "services/failed/state.json"),
        ("plan", "services/golden/plan.json"),
        ("run", f"runs/{REAL}/run.json"),
    ],
)
def test_what_an_earlier_version_wrote_fits(name: str, file: str) -> None:
    validator(name).validate(json.loads((RECORDED / file).read_text("utf-8")))


def test_samples_and_measurements_fit() -> None:
    folder = RECORDED / "runs" / REAL
    for line in (folder / "samples.ndjson").read_text("utf-8").splitlines():
        validator("sample").validate(json.loads(line))
    lines = (folder / "bench.ndjson").read_text("utf-8").splitlines()
    assert lines
    for line in lines:
        validator("measurement").validate(json.loads(line))
    for row in (row for line in lines for row in json.loads(line)["rows"]):
        validator("bench-row").validate(row)


@pytest.mark.parametrize("replicas", ["1", "2"])
def test_plans_fit(replicas: str) -> None:
    for model in (None, qwen3()):
        plan = make_plan(inputs(model=model, extra=("--dp-size", replicas)))
        validator("plan").validate(json.loads(msgspec.json.encode(plan)))


def test_a_document_of_another_shape_does_not_fit() -> None:
    state: dict[str, Any] = json.loads((RECORDED / "services/golden/state.json").read_text())
    state["smoke"]["checks"][0]["ok"] = "yes"
    with pytest.raises(jsonschema.ValidationError):
        validator("service-state").validate(state)
