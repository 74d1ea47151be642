"""What CONTRIBUTING.md says of the code is so: the five places, and the trace of one `up`."""

from __future__ import annotations

import ast
import re
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAUNCHER = ROOT / "launcher"
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
STEP = re.compile(r"(?P<path>[\w/]+\.py) +(?P<names>\w[\w.]*(?:\(\))?)")
CALL = re.compile(r"(?P<path>\w+/[\w/]+\.py) (?P<name>\w+)\(\)")


def trace() -> list[tuple[str, str]]:
    """(file, dotted name) of every step of the block, and of those named beside a step."""
    block = TEXT.split("## One `up`, by function names")[1].split("```")[1]
    steps: list[tuple[str, str]] = []
    folder = ""
    for line in block.splitlines():
        if re.fullmatch(r"[\w/]+/", line):
            folder = line
        elif step := STEP.match(line.strip()):
            inside = folder if line.startswith("  ") and "/" not in step["path"] else ""
            steps.append((inside + step["path"], step["names"].removesuffix("()")))
        steps += [(call["path"], call["name"]) for call in CALL.finditer(line)]
    return steps


def defined(path: Path) -> set[str]:
    """Functions and classes of a module, methods as `Class.method`."""
    names: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{m.name}" for m in node.body if isinstance(m, ast.FunctionDef)}
    return names


def test_every_step_of_the_trace_is_a_function_of_its_file() -> None:
    steps = trace()
    assert len(steps) >= 15
    assert [(p, n) for p, n in steps if n not in defined(LAUNCHER / p)] == []


def test_the_five_places_are_there() -> None:
    table = TEXT.split("## Where things live")[1].split("## ")[0]
    paths = re.findall(r"`(launcher/[\w/.]+)`", table)
    assert len(paths) >= 5
    assert [path for path in paths if not (ROOT / path).is_file()] == []


def test_decisions_are_numbered_in_their_order_and_dated() -> None:
    """Numbers are cited: none is missing, none is there twice."""
    text = (ROOT / "docs" / "decisions.md").read_text("utf-8")
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    parts = [re.fullmatch(r"(\d+)\. (\S.*) · (\d{4}-\d\d-\d\d)", title) for title in titles]
    odd = [title for title, part in zip(titles, parts, strict=True) if part is None]
    assert odd == [], "write `## NUMBER. Title · YYYY-MM-DD`"
    assert [int(part[1]) for part in parts if part] == list(range(1, len(titles) + 1))
    for part in filter(None, parts):
        date.fromisoformat(part[3])
