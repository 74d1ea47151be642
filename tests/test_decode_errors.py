"""What others wrote may be no UTF-8, which msgspec tells by an error of Python's.

`UnicodeDecodeError` is a `ValueError` like msgspec's own errors, and none of them.
"""

from __future__ import annotations

import ast
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).parents[1]
_MSGSPEC = {"MsgspecError", "DecodeError"}
_BOTH = {"ValueError", "UnicodeDecodeError", "Exception"}


def narrow(source: str, path: str) -> list[str]:
    """Where a file catches what msgspec does not read, and not what is no UTF-8."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Try):
            caught = _names([each.type for each in node.handlers if each.type is not None])
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "contextlib.suppress":
            caught = _names(node.args)
        else:
            continue
        if caught & _MSGSPEC and not caught & _BOTH:
            found.append(f"{path}:{node.lineno}")
    return found


def _names(nodes: list[ast.expr]) -> set[str]:
    parts = [part for node in nodes for part in getattr(node, "elts", [node])]
    return {ast.unparse(part).rpartition(".")[2] for part in parts}


def test_whoever_catches_what_is_no_json_catches_what_is_no_utf8() -> None:
    """`runs show` ended in an unexpected UnicodeDecodeError for a damaged line of a record."""
    found = []
    for path in sorted((ROOT / "launcher").rglob("*.py")):
        found += narrow(path.read_text("utf-8"), str(path.relative_to(ROOT)))
    assert found == []


def test_the_search_itself() -> None:
    with pytest.raises(UnicodeDecodeError):
        msgspec.json.decode(b'"\xff"')
    source = "try:\n    f()\nexcept (msgspec.DecodeError, RecursionError):\n    pass\n"
    assert narrow(source, "x.py") == ["x.py:1"]
    assert narrow(source.replace("RecursionError", "ValueError"), "x.py") == []
    assert narrow("contextlib.suppress(OSError, msgspec.MsgspecError)\n", "x.py") == ["x.py:1"]
