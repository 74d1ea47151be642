"""Functions fit a screen: how long they are, counted over the whole launcher."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONGEST, MEDIAN, LONG = 60, 9, 22
"""Lines, from `def` to the last one, the docstring among them."""
SHARE = 0.10
"""Of all functions, those that may be longer than `LONG`."""


def lengths(source: str, path: str) -> dict[str, int]:
    """Lines of each function and method of a file, nested ones too."""
    return {
        f"{path}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def of_the_launcher() -> dict[str, int]:
    counted: dict[str, int] = {}
    for path in sorted((ROOT / "launcher").rglob("*.py")):
        counted |= lengths(path.read_text("utf-8"), str(path.relative_to(ROOT)))
    return counted


def test_no_function_is_longer_than_sixty_lines() -> None:
    assert {name: count for name, count in of_the_launcher().items() if count > LONGEST} == {}


def test_most_functions_are_short() -> None:
    counts = list(of_the_launcher().values())
    assert statistics.median(counts) <= MEDIAN
    long = sum(count > LONG for count in counts)
    assert long <= SHARE * len(counts), f"{long} of {len(counts)} are longer than {LONG} lines"


def test_the_count_itself() -> None:
    """The rules above would hold if nothing were counted."""
    assert len(of_the_launcher()) > 1000
    source = (
        '@decorated\ndef one():\n    """Say it."""\n    def two():\n        pass\n    return two\n'
    )
    assert lengths(source, "x.py") == {"x.py:2 one": 5, "x.py:4 two": 2}
