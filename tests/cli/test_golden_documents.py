"""The `--json` documents of the commands, held to golden files: they are a contract.

`golden/home/` is the state of a home as an earlier qlaunch left it (the record of a real run, one
that failed, one cut by a crash, one that ended before it began), so that old files keep being
read. `WRITE_GOLDEN=1 pytest tests/cli/test_golden_documents.py` writes the golden files anew: read
the difference before committing it. A key may be added; none may go, move or change its type.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.engine import command as engine_command
from tests.cli.commandline import Answer, Run
from tests.cli.conftest import SetMachine
from tests.samples import GIB, machine

HERE = Path(__file__).parent
GOLDEN = HERE / "golden" / "documents"
RECORDED = HERE / "golden" / "home" / "state"
REAL, FAILED = "20261126T011616Z-golden-aaa7", "20261126T020000Z-failed-bbb1"
CUT, EMPTY = "20261126T030000Z-golden-ccc1", "20261126T040000Z-golden-ddd1"

DOCUMENTS: dict[str, tuple[list[str], int]] = {
    "plan": (["plan", "cpu-minilm"], 0),
    "plan-replicas": (["plan", "cpu-minilm", "--", "--dp-size", "2"], 0),
    "plan-unknown-flag": (["plan", "cpu-minilm", "--", "--no-such-flag"], 5),
    "up-dry-run": (["up", "cpu-qwen3-0.6b", "--dry-run"], 0),
    "up-unknown": (["up", "no-such-profile"], 2),
    "status-stopped": (["status", "golden"], 3),
    "status-failed": (["status", "failed"], 3),
    "status-damaged": (["status", "damaged"], 3),
    "status-future": (["status", "future"], 3),
    "status-absent": (["status", "absent"], 3),
    "ps": (["ps", "--all"], 0),
    "down": (["down", "golden", "failed"], 0),
    "top": (["top", "--all", "--once"], 0),
    "client": (["client", "golden"], 3),
    "smoke": (["smoke", "golden"], 3),
    "verify": (["verify", "golden"], 3),
    "bench": (["bench", "golden"], 3),
    "runs-list": (["runs", "list"], 0),
    "runs-show": (["runs", "show", REAL], 0),
    "runs-show-failed": (["runs", "show", FAILED], 0),
    "runs-show-cut": (["runs", "show", CUT], 0),
    "runs-show-empty": (["runs", "show", EMPTY], 0),
    "runs-diff": (["runs", "diff", REAL, FAILED], 0),
    "runs-diff-empty": (["runs", "diff", REAL, EMPTY], 0),
    "runs-prune": (["runs", "prune", "--keep", "1", "--dry-run"], 0),
    "model-inspect": (["model", "inspect", "all-minilm-l6-v2"], 0),
}
"""What is compared word for word: a call of each command, and its exit code."""

SHAPES: dict[str, tuple[list[str], int]] = {
    "recommend": (["recommend"], 0),
    "profiles-list": (["profiles", "list"], 0),
    "profiles-show": (["profiles", "show", "cpu-minilm", "--resolved"], 0),
    "engine-list": (["engine", "list"], 0),
    "model-list": (["model", "list"], 0),
    "export-systemd": (["export", "systemd", "cpu-minilm"], 0),
}
"""What follows the catalogues, or the machine: only keys and types are compared."""

_AGES = {"age_s", "seconds", "fingerprint", "uptime_s", "at"}
"""Keys whose values are those of this moment, or of files made anew for each test run."""


@pytest.fixture
def recorded(ready: Path, on: SetMachine) -> Path:
    """A home with the services and runs of an earlier qlaunch in it."""
    on(machine(bf16=True, threads=2))
    shutil.copytree(RECORDED, ready / "state", dirs_exist_ok=True)
    for folder in [ready / "state", *(p for p in (ready / "state").rglob("*") if p.is_dir())]:
        folder.chmod(0o700)
    return ready


def _masked(value: Any) -> Any:
    """`value` without what differs from one moment, or one machine, to the next."""
    if isinstance(value, dict):
        return {
            key: type(item).__name__ if key in _AGES and item is not None else _masked(item)
            for key, item in value.items()
        }
    return [_masked(item) for item in value] if isinstance(value, list) else value


def _shape(value: Any) -> Any:
    """Keys and types; of a list, of all its elements together."""
    if isinstance(value, dict):
        return {key: _shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_merged([_shape(item) for item in value])] if value else []
    return "null" if value is None else type(value).__name__


def _merged(shapes: list[Any]) -> Any:
    if all(isinstance(shape, dict) for shape in shapes):
        keys = dict.fromkeys(key for shape in shapes for key in shape)
        return {key: _merged([s[key] for s in shapes if key in s]) for key in keys}
    if all(isinstance(shape, list) for shape in shapes):
        inner = [item for shape in shapes for item in shape]
        return [_merged(inner)] if inner else []
    names = sorted({json.dumps(shape) for shape in shapes})
    return json.loads(names[0]) if len(names) == 1 else [json.loads(name) for name in names]


def _text(answer: Answer, home: Path, checkpoints: dict[str, Path], *, shape: bool) -> str:
    document = answer.document
    masked = {**document, "data": _shape(document["data"])} if shape else _masked(document)
    text = json.dumps(masked, indent=1, ensure_ascii=False)
    places = {str(path): f"MODEL/{name}" for name, path in checkpoints.items()}
    places |= {
        str(home): "HOME",
        str(engine_command.PLUGIN.parent): "PLUGIN",
        str(HERE.parents[1]): "CHECKOUT",
        sys.executable: "PYTHON",
    }
    for place, name in places.items():
        text = text.replace(place, name)
    return re.sub(r"(less than a minute|\d+ (minute|hour|day)s?) ago", "AGE ago", text) + "\n"


def _hold(name: str, text: str) -> None:
    golden = GOLDEN / f"{name}.json"
    if os.environ.get("WRITE_GOLDEN"):
        golden.write_text(text, "utf-8")
    assert text == golden.read_text("utf-8")


@pytest.mark.parametrize("name", [*DOCUMENTS, *SHAPES])
def test_the_document_of(name: str, run: Run, recorded: Path, checkpoints: dict[str, Path]) -> None:
    words, code = {**DOCUMENTS, **SHAPES}[name]
    at = words.index("--") if "--" in words else len(words)
    answer = run(*words[:at], "--json", *words[at:])
    assert answer.code == code, answer.out
    _hold(name, _text(answer, recorded, checkpoints, shape=name in SHAPES))


@pytest.mark.parametrize("name", ["plan", "up"])
def test_the_document_where_memory_is_short(
    name: str, run: Run, recorded: Path, on: SetMachine, checkpoints: dict[str, Path]
) -> None:
    on(machine(total=4 * GIB, available=GIB // 2, threads=2))
    answer = run(name, "cpu-minilm", "--json")
    assert answer.code == (0 if name == "plan" else 4), answer.out
    _hold(f"{name}-short", _text(answer, recorded, checkpoints, shape=False))


def test_the_documents_are_there_and_no_others() -> None:
    expected = {*DOCUMENTS, *SHAPES, "plan-short", "up-short"}
    assert {path.stem for path in GOLDEN.iterdir()} == expected
