"""Record every route that an SGLang release serves over HTTP, from that release's own source.

    python tools/route_tables.py sglang-0.5.23-*.whl [MORE.whl or site-packages ...]

Writes `tests/engine/routes/<version>.json`: path, methods, and the file that declares it, routers
and WebSockets included, of every application in the package that could be what listens. Nothing is
executed, the modules are parsed. `tests/engine/test_route_tables.py` holds the guard against these
tables, and `python -m tests.engine.route_page` writes what is left reachable into SECURITY.md.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from static_values import Tree

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "engine" / "routes"
METHODS = ("get", "post", "put", "delete", "patch", "head", "options", "trace")
ROOTS = ("sglang/srt/",)
"""What `sglang serve` of an embedding model runs; sglang/multimodal_gen makes images."""


def routes(tree: Tree) -> list[dict[str, object]]:
    """Every route declared in the package, sorted."""
    found = []
    for name in tree.files():
        if name.startswith(ROOTS):
            text = tree.text(name) or ""
            if "FastAPI" in text or "APIRouter" in text:
                found += [{**route, "file": name} for route in _of_module(ast.parse(text))]
    return sorted(found, key=lambda route: (str(route["path"]), str(route["methods"])))


def _of_module(module: ast.Module) -> Iterator[dict[str, object]]:
    prefixes = _prefixes(module)
    for node in ast.walk(module):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for word in node.decorator_list:
            if isinstance(word, ast.Call) and isinstance(word.func, ast.Attribute):
                methods = _methods(word)
                if methods and (path := _path(word)) is not None:
                    prefix = prefixes.get(ast.unparse(word.func.value), "")
                    yield {"path": prefix + path, "methods": methods}


def _prefixes(module: ast.Module) -> dict[str, str]:
    """The `prefix` of every router of a module, by its name."""
    found = {}
    for node in ast.walk(module):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            if ast.unparse(node.value.func) != "APIRouter":
                continue
            for word in node.value.keywords:
                if word.arg == "prefix" and isinstance(word.value, ast.Constant):
                    found[ast.unparse(node.targets[0])] = str(word.value.value)
    return found


def _methods(call: ast.Call) -> list[str]:
    assert isinstance(call.func, ast.Attribute)
    name = call.func.attr
    if name in METHODS:
        return [name.upper()]
    if name == "websocket":
        return ["WEBSOCKET"]
    if name not in ("api_route", "route"):
        return []
    for word in call.keywords:
        if word.arg == "methods" and isinstance(word.value, ast.List):
            return sorted(str(each.value) for each in word.value.elts if _is_text(each))
    return ["GET"]


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _path(call: ast.Call) -> str | None:
    given = call.args[0] if call.args else None
    for word in call.keywords:
        given = word.value if word.arg == "path" else given
    return given.value if given is not None and _is_text(given) else None  # type: ignore[attr-defined]


def main(arguments: list[str]) -> None:
    """Write the table of every release given."""
    FOLDER.mkdir(exist_ok=True)
    for argument in arguments:
        tree = Tree(Path(argument))
        path = FOLDER / f"{tree.version()}.json"
        path.write_text(json.dumps(routes(tree), indent=1) + "\n", "utf-8")
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
