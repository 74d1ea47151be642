"""The shape of the code: who may import whom, and the house rules a linter does not know.

The table is the one of docs/architecture.md, and a test holds the two together.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAUNCHER = ROOT / "launcher"
PLUGIN = LAUNCHER / "plugin"

FOUNDATION = {
    "argv",
    "child_environment",
    "errors",
    "extras",
    "linux",
    "log_lines",
    "network",
    "paths",
    "pip_settings",
    "units",
    "yaml_messages",
    "yaml_reader",
}
"""Free to all; they import nothing of ours but each other."""

MAY_IMPORT: dict[str, set[str]] = {
    "config": set(),
    "hardware": set(),
    "model": set(),
    "gateway": set(),
    "bundle": set(),
    "documents": {"config", "model"},
    "verify": {"documents"},
    "record": {"documents", "hardware"},
    "report": {"documents", "record"},
    "engine": {"config", "hardware", "model"},
    "plan": {"config", "hardware", "model", "documents", "engine"},
    "service": {"config", "hardware", "documents", "plan", "record", "verify"},
    "fleet": {"documents", "plan", "service"},
    "doctor": {"documents", "hardware", "engine", "service"},
    "corpus": {"documents", "bench"},
    "quantize": {"documents", "engine", "model", "verify"},
    "prove": {"documents", "record", "report"},
    "bench": {"documents", "hardware", "engine", "plan", "service", "verify", "record"},
}
"""Folder → folders it may import; `app` may import all of them, `cli` those and `app`."""

ENGINES_OWN = {
    "sglang",
    "torch",
    "transformers",
    "sgl_kernel",
    "vllm",
    "sentence_transformers",
    "onnxruntime",
    "openvino",
    "nncf",
    "accelerate",
    "xllamacpp",
}
"""They live in the engine's environment, which is another process."""

IN_ENGINE = {
    LAUNCHER / "engine" / "options" / "options_worker.py",
    LAUNCHER / "verify" / "reference_worker.py",
    LAUNCHER / "quantize" / "quantize_worker.py",
    *(LAUNCHER / "bench" / "peers" / "workers" / "qlaunch_peers").glob("*.py"),
}
"""Programs that the engine's Python runs; they import nothing of ours."""

HEAVY = {
    "aiohttp",
    "prometheus_client",
    "redis",
    "pymemcache",
    "tokenizers",
    "requests",
    "openai",
    "huggingface_hub",
    "modelscope",
    "rich",
    "pynvml",
    "numpy",
    "pyarrow",
    "matplotlib",
    "jinja2",
}
"""Imported by the function that needs them: `qlaunch ps` answers in a quarter of a second."""

RENDERER = LAUNCHER / "cli" / "result.py"


def sources() -> list[Path]:
    return sorted(p for p in LAUNCHER.rglob("*.py") if PLUGIN not in p.parents)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), filename=str(path))


def imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every module a file imports, inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            module = node.module or ""
            if module == "launcher":
                yield from ((f"launcher.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield module, node.lineno


def part(path: Path) -> str:
    """The folder of a module, or the module itself where it stands at the top."""
    inside = path.relative_to(LAUNCHER).parts
    return inside[0] if len(inside) > 1 else path.stem


def ours(module: str) -> str | None:
    first, _, rest = module.partition(".")
    return rest.partition(".")[0] if first == "launcher" and rest else None


def allowed(of: str) -> set[str] | None:
    """What `of` may import of ours; None is everything."""
    if of in ("cli", "__main__"):
        return None
    if of in FOUNDATION:
        return FOUNDATION
    if of in ("app", "api"):
        return {*MAY_IMPORT, *FOUNDATION, "app"}
    if of == "__init__":
        return {"api"}  # when `embed` is first used, and not before
    assert of in MAY_IMPORT, f"launcher/{of} is not in the table of docs/architecture.md"
    return MAY_IMPORT[of] | FOUNDATION | {of}


def test_folders_import_only_what_the_table_allows() -> None:
    wrong = []
    for path in sources():
        may = allowed(part(path))
        for module, line in imported(parsed(path)):
            target = ours(module)
            if may is not None and target is not None and target not in {*may, "__version__"}:
                wrong.append(f"{relative(path)}:{line} imports {module}")
    assert wrong == []


def test_the_table_has_no_cycles() -> None:
    done: set[str] = set()
    while rest := MAY_IMPORT.keys() - done:
        free = {name for name in rest if MAY_IMPORT[name] <= done}
        assert free, f"these import each other in a circle: {sorted(rest)}"
        done |= free


def test_the_table_is_the_one_of_the_documentation() -> None:
    rows = re.findall(
        r"^\| `launcher/(\w+)/` \|[^|]*\| ([^|]+) \|$",
        (ROOT / "docs" / "architecture.md").read_text("utf-8"),
        re.MULTILINE,
    )
    written = {name: set() if may == "–" else set(may.split(", ")) for name, may in rows}
    assert written.pop("cli") == {"all"}
    assert written.pop("app") == {"all but cli"}
    assert written.pop("linux") == set()
    assert written.pop("network") == set()
    assert written == MAY_IMPORT


def test_no_modules_import_each_other_in_a_circle() -> None:
    names = {module_name(path): path for path in sources()}
    imports = {
        name: {found for found in modules_of(parsed(path), names) if found != name}
        for name, path in names.items()
    }
    while free := {name for name, needs in imports.items() if not needs & imports.keys()}:
        imports = {name: needs for name, needs in imports.items() if name not in free}
    assert sorted(imports) == []


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def modules_of(tree: ast.AST, names: Mapping[str, Path]) -> Iterator[str]:
    """The modules of ours that a file imports, by full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in names else node.module or ""


@pytest.mark.parametrize("name", ["types", "utils", "helpers", "common", "misc"])
def test_no_module_has_a_name_that_says_nothing(name: str) -> None:
    assert [relative(path) for path in sources() if path.stem == name] == []


def test_only_the_command_is_called_client() -> None:
    assert [relative(p) for p in sources() if p.stem == "client"] == ["launcher/cli/client.py"]


def test_the_launcher_never_imports_the_engine() -> None:
    wrong = [
        f"{relative(path)}:{line} imports {module}"
        for path in sources()
        if path not in IN_ENGINE
        for module, line in imported(parsed(path))
        if module.partition(".")[0] in ENGINES_OWN
    ]
    assert wrong == []


@pytest.mark.parametrize("path", [*sorted(PLUGIN.rglob("*.py")), *sorted(IN_ENGINE)], ids=relative)
def test_what_runs_inside_the_engine_imports_nothing_of_ours(path: Path) -> None:
    assert [module for module, _line in imported(parsed(path)) if ours(module)] == []


def test_heavy_modules_are_imported_where_they_are_needed() -> None:
    wrong = [
        f"{relative(path)}:{line} imports {module} at the top"
        for path in sources()
        if path not in IN_ENGINE
        for module, line in imported(ast.Module(list(at_import(parsed(path))), []))
        if module.partition(".")[0] in HEAVY
    ]
    assert wrong == []


def at_import(tree: ast.Module) -> Iterator[ast.stmt]:
    """Import statements that run when the module is imported."""
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.Try):
            yield from at_import(ast.Module(node.body, []))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from at_import(ast.Module([*node.body, *node.orelse], []))


def test_no_file_is_longer_than_five_hundred_lines() -> None:
    lengths = {relative(p): len(p.read_text("utf-8").splitlines()) for p in LAUNCHER.rglob("*.py")}
    assert {path: count for path, count in lengths.items() if count > 500} == {}


def test_catching_everything_has_a_reason() -> None:
    wrong = []
    for path in sorted(LAUNCHER.rglob("*.py")):
        lines = path.read_text("utf-8").splitlines()
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ExceptHandler) and catches_all(node) and swallows(node):
                here, after = lines[node.lineno - 1], lines[node.lineno].strip()
                if not (has_reason(here) or after.startswith("# ")):
                    wrong.append(f"{relative(path)}:{node.lineno}")
    assert wrong == []


def catches_all(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    names = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(ast.unparse(name) in ("Exception", "BaseException") for name in names)


def swallows(handler: ast.ExceptHandler) -> bool:
    """Whether it can go on after the error: a handler that ends in `raise` only cleans up."""
    return not isinstance(handler.body[-1], ast.Raise)


def has_reason(line: str) -> bool:
    comment = line.partition("#")[2]
    words = re.sub(r"noqa:( ?[A-Z]+\d+,?)+", "", comment).strip(" #-")
    return len(words.split()) >= 3


def test_only_the_renderer_prints() -> None:
    wrong = [
        f"{relative(path)}:{node.lineno}"
        for path in sources()
        if path not in (RENDERER, *IN_ENGINE)
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    ]
    assert wrong == []


LIGHT = [["--help"], ["--version"], ["ps"], ["ps", "--json"], ["status", "absent"]]


@pytest.mark.parametrize("words", LIGHT, ids=" ".join)
def test_quick_commands_import_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from launcher.cli.main import main\n"
        "main(sys.argv[1:])\n"
        "sys.stdout.write('\\n' + ' '.join(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        env={**os.environ, "QLAUNCH_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert loaded & {*HEAVY, *ENGINES_OWN, "yaml", "psutil"} == set()


def test_a_function_of_the_rules_themselves() -> None:
    """The checks above would pass if they saw nothing."""
    tree = ast.parse(
        "from launcher import errors\n"
        "import openai\n"
        "def f():\n"
        "    from launcher.service import control as client\n"
        "    try: pass\n"
        "    except (ValueError, Exception): pass\n"
    )
    assert {module for module, _ in imported(tree)} == {
        "launcher.errors",
        "openai",
        "launcher.service",
    }
    assert [ast.unparse(node) for node in at_import(tree)] == [
        "from launcher import errors",
        "import openai",
    ]
    handler = next(node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler))
    assert catches_all(handler)
    assert swallows(handler)
    assert not has_reason("except Exception:  # noqa: BLE001")
    assert has_reason("except Exception:  # noqa: BLE001 - whatever it is, go on")
