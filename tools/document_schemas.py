"""JSON Schemas of the documents, generated from their types: `python -m tools.document_schemas`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import msgspec

from launcher.config import profile
from launcher.config.schema import field_texts
from launcher.documents import (
    comparison,
    evidence,
    failure,
    look,
    measurement,
    plan,
    proof,
    run,
    run_diff,
    service_state,
    smoke,
)
from launcher.linux import processes
from launcher.linux.files import write_atomic
from launcher.model import checkpoint

FOLDER: Final = Path(__file__).parents[1] / "docs" / "schemas"
MODULES: Final = (
    *(profile, checkpoint, processes),
    *(
        failure,
        plan,
        run,
        run_diff,
        service_state,
        smoke,
        comparison,
        proof,
        evidence,
        measurement,
        look,
    ),
)
"""Where the types of the documents and of their parts are."""

DOCUMENTS: Final[dict[str, tuple[type[msgspec.Struct], str]]] = {
    "plan": (plan.Plan, "`services/NAME/plan.json`, and `data.plan` of `runs show --json`"),
    "service-state": (service_state.ServiceState, "`services/NAME/state.json`"),
    "run": (run.Run, "`runs/ID/run.json`, and the data of `runs show --json`"),
    "sample": (run.Sample, "a line of `runs/ID/samples.ndjson`"),
    "smoke-report": (smoke.SmokeReport, "`data.smoke` of `up`, `status` and `smoke --json`"),
    "suite-report": (smoke.SuiteReport, "`data.verify` of `verify --json`"),
    "quality-report": (smoke.QualityReport, "`data.quality` of `verify --quality --json`"),
    "verify-request": (smoke.VerifyRequest, "what the smoke's process is asked on its stdin"),
    "comparison": (comparison.Comparison, "`comparisons/ID/comparison.json`"),
    "run-diff": (run_diff.RunDiff, "the data of `runs diff --json`"),
    "proof": (proof.Proof, "`proofs/ID/proof.json`, and `data` of `prove --json`"),
    "look": (look.Look, "the data of `top --json`, a document a look"),
    "bench": (measurement.BenchResult, "the data of `bench --json`"),
    "measurement": (measurement.Measurement, "a line of `runs/ID/bench.ndjson`"),
    "evidence": (evidence.Evidence, "`data.evidence` of `plan` and `recommend --json`"),
    "bench-row": (comparison.Row, "an element of `data.rows` of `bench --json`"),
}
"""Name of the schema → its type, and where such a document stands."""


def schema(name: str) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of one document, its fields described by their docstrings."""
    kind, place = DOCUMENTS[name]
    found = msgspec.json.schema(kind)
    texts = _texts()
    for definition, body in found["$defs"].items():
        for field, text in texts.get(definition, {}).items():
            if field in body["properties"]:
                body["properties"][field] = {"description": text, **body["properties"][field]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": name,
        "description": f"Where it stands: {place}. Readers must allow for further keys.",
        **found,
    }


def schema_text(name: str) -> str:
    """A schema as it is committed: indented, one line break at the end."""
    return json.dumps(schema(name), indent=1, ensure_ascii=False) + "\n"


def _texts() -> dict[str, dict[str, str]]:
    """Docstrings of fields by class, those of its bases included."""
    own: dict[str, dict[str, str]] = {}
    for module in MODULES:
        own |= field_texts(module)
    classes = [
        kind
        for module in MODULES
        for name in own
        if isinstance(kind := getattr(module, name, None), type)
    ]
    return {
        cls.__name__: {
            field: text
            for base in reversed(cls.__mro__)
            for field, text in own.get(base.__name__, {}).items()
        }
        for cls in classes
    }


def main() -> None:
    """Write all of them, and remove those of documents that are no more."""
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.json"):
        if path.stem not in DOCUMENTS:
            path.unlink()
    for name in DOCUMENTS:
        write_atomic(FOLDER / f"{name}.json", schema_text(name).encode(), mode=0o644)


if __name__ == "__main__":
    main()
