"""docs/errors.md and docs/failures.md, read from the source: `python -m tools.error_pages`."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from launcher.cli.manpage import EXIT_CODES
from launcher.errors import ExitCode
from launcher.linux.files import write_atomic

ROOT: Final = Path(__file__).resolve().parents[1]
LAUNCHER: Final = ROOT / "launcher"
ERRORS: Final = ROOT / "docs" / "errors.md"
FAILURES: Final = ROOT / "docs" / "failures.md"
SIGNATURES: Final = LAUNCHER / "engine" / "failures" / "failures.yaml"


_OUTCOMES = ("problem", "warning")
_BY_PLACE = {"Problem", "_failed"}
"""Take the code as their first word: a problem of a result, an error of the command line itself."""


@dataclass(frozen=True)
class Raised:
    """One place in the source that makes an error with a code."""

    code: str
    exit_code: str | None
    """Name of the ExitCode; None where the caller decides it."""
    fix: str | None
    """What to do, with `…` for what is filled in; None where none is given or it is computed."""
    module: str


@functools.cache
def raised() -> tuple[Raised, ...]:
    """Every call in the launcher that gives a `code`, by module and line."""
    # Made from the outcome of a check.
    found = [Raised(f"doctor_{how}", None, None, "launcher.cli.doctor") for how in _OUTCOMES]
    for path in sorted(LAUNCHER.rglob("*.py")):
        if LAUNCHER / "engine" / "plugin" in path.parents:
            continue
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found += [
            one
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            for one in _of(node, module)
        ]
    return tuple(found)


def _of(node: ast.AST, module: str) -> Iterator[Raised]:
    if isinstance(node, ast.FunctionDef):
        # A factory's default: `def broken(path, why, *, code="model_corrupt")`.
        parameters = [*node.args.args, *node.args.kwonlyargs]
        defaults = [*node.args.defaults, *node.args.kw_defaults]
        named = zip(reversed(parameters), reversed(defaults), strict=False)
        code = next((_text(default) for arg, default in named if arg.arg == "code"), None)
        calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
        exits = [name for call in calls if (name := _exit_of(call)) is not None]
        if code is not None:
            yield Raised(code, next(iter(exits), None), None, module)
    by_place = isinstance(node, ast.Call) and module.startswith("launcher.cli.")
    if (
        isinstance(node, ast.Call)
        and by_place
        and node.args
        and ast.unparse(node.func) in _BY_PLACE
    ):
        words = [_text(word) for word in node.args]
        if words[0] is not None and "…" not in words[0]:
            yield Raised(words[0], _exit_of(node), words[2] if len(words) > 2 else None, module)
    if isinstance(node, ast.Call):
        given = {word.arg: word.value for word in node.keywords if word.arg}
        for code in _texts(given.get("code")):
            yield Raised(code, _exit_of(node), _text(given.get("fix")), module)


def _exit_of(call: ast.Call) -> str | None:
    """The name of the exit code that a call gives; an error that gives none has the usual one."""
    given = next((word.value for word in call.keywords if word.arg == "exit_code"), None)
    if ast.unparse(call.func) == "_failed" and len(call.args) > 2:
        given = call.args[2]
    if given is None and ast.unparse(call.func) == "QlaunchError":
        return "USAGE"
    return (
        given.attr
        if isinstance(given, ast.Attribute) and ast.unparse(given.value) == "ExitCode"
        else None
    )


def _texts(node: ast.expr | None) -> Iterator[str]:
    """The strings that an expression may be: `"a" if x else "b"` is two."""
    if isinstance(node, ast.IfExp):
        yield from (*_texts(node.body), *_texts(node.orelse))
    elif (text := _text(node)) is not None:
        yield text


def _text(node: ast.expr | None) -> str | None:
    """A string of the source; what a format string fills in shows as `…`."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"\{\w+\}", "…", node.value)  # a text that is filled in later
    if isinstance(node, ast.JoinedStr):
        parts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values]
        return "".join(parts)
    if isinstance(node, ast.BoolOp):  # `fix or "…"`
        return next((text for value in node.values if (text := _text(value))), None)
    return None


def errors_page() -> str:
    """All error codes: the exit code, what to do, and where they come from."""
    by_code: dict[str, list[Raised]] = {}
    for one in raised():
        by_code.setdefault(one.code, []).append(one)
    lines = [
        "# Error codes",
        "",
        "Generated from the source by `make docs`. `errors[].code` of every `--json` document is",
        "one of these; they are stable, so scripts may test for them. The message says what",
        "happened and where; `…` stands for what is filled in. The command line: [cli.md](cli.md).",
        "",
        "| code | exit | what to do | raised in |",
        "|---|---|---|---|",
    ]
    for code, places in sorted(by_code.items()):
        exits = sorted({int(ExitCode[one.exit_code]) for one in places if one.exit_code})
        fixes = list(dict.fromkeys(_cell(one.fix) for one in places if one.fix))
        modules = sorted({one.module.removeprefix("launcher.") for one in places})
        lines.append(
            f"| `{code}` | {', '.join(map(str, exits)) or '–'} | {'; '.join(fixes) or '–'} |"
            f" {', '.join(f'`{name}`' for name in modules)} |"
        )
    lines += ["", "Exit codes in one place:", "", "| exit | meaning |", "|---|---|"]
    lines += [f"| {int(code)} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    return "\n".join(lines) + "\n"


def failures_page() -> str:
    """All failure classes of a start or a running engine, with cause and fix."""
    tables: dict[str, Any] = yaml.safe_load(SIGNATURES.read_text("utf-8"))
    rows: dict[str, list[tuple[str, str]]] = {}
    entries = [
        tables["oom_killed"],
        tables["unclassified"],
        *tables["exits"],
        *tables["signatures"],
    ]
    for entry in entries:
        rows.setdefault(entry["class"], []).append((_cell(entry["cause"]), _cell(entry["fix"])))
    lines = [
        "# Failure classes",
        "",
        "Generated from `launcher/engine/failures/failures.yaml` by `make docs`. When an engine",
        "fails, `failure.failure_class` of `status`, `up` and the run record is one of these, read",
        "from its log and its exit code. `{…}` is filled in from the log.",
        "",
        "| class | cause | what to do |",
        "|---|---|---|",
    ]
    for name, found in sorted(rows.items()):
        lines += [f"| `{name}` | {cause} | {fix} |" for cause, fix in dict.fromkeys(found)]
    return "\n".join(lines) + "\n"


def _cell(text: str | None) -> str:
    return " ".join((text or "–").split()).replace("|", "\\|")


PAGES: Final = {ERRORS: errors_page, FAILURES: failures_page}


def main() -> int:
    """Write both pages."""
    for path, page in PAGES.items():
        write_atomic(path, page().encode(), mode=0o644)
    return 0


if __name__ == "__main__":
    sys.exit(main())
