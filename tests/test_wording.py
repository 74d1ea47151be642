"""Words and phrases that messages, help texts and the README do without, and what to say instead.

A message is read at three in the morning, by people whose English is technical: what happened,
where, what to do. Add a phrase here when a reader stumbles over it, and rewrite what has it.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tools import cli_reference

ROOT = Path(__file__).resolve().parents[1]
FAILURES = ROOT / "launcher" / "engine" / "failures" / "failures.yaml"
TEMPLATES = ROOT / "launcher" / "report" / "templates"

UNUSED = {
    r"cannot be had": "is not available here",
    r"(?<!there )\b(?:is|are) no (?!longer\b|more\b|closer\b|such\b)": "is not a",
    r"(?<!there )\b(?:is|are) none\b": "what is wrong: is not valid, is NaN or infinite",
    r"\bany ?more\b": "no longer",
    r"\banew\b": "again, or from the start",
    r"\bof ours\b": "of qlaunch",
    r"\bhad said\b": "the log of",
    r"\bat ease\b": "how much is needed, and for what",
    r"\b(?:whoever|whosoever|thereof|hence|whereas|herewith|henceforth)\b": "a plain word",
    r"\bshall\b": "must, or is",
    r"\bhas not (?:the|a|any)\b": "does not have",
    r"\bwhat came of\b": "the result of",
    r"\bfor ever\b": "forever",
    r"\bspeaks? of\b": "is about, or names",
    r"\btells? of\b|\btold of\b": "shows, reports",
    r"\bnonsense\b": "cannot be read",
    r"\bwithout a word\b": "wrote nothing",
    r"\bsomething else than\b": "something other than",
    r"\bended well\b": "succeeded",
}
"""Regular expressions, and what to say instead."""


def messages() -> Iterator[tuple[str, str]]:
    """Every text of the launcher that a person may be shown, with its place: no docstring, no key.

    The plugin's own are left out: what it says stands in the engine's log.
    """
    for path in sorted((ROOT / "launcher").rglob("*.py")):
        if "plugin/sglang_plugin" in path.as_posix():
            continue
        tree = ast.parse(path.read_text("utf-8"))
        documentation = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            if id(node) not in documentation and " " in node.value:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value
    for path in [FAILURES, *sorted(TEMPLATES.glob("*.j2"))]:
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if path != FAILURES or re.match(r" *(?:- )?(?:cause|fix): ", line):
                yield f"{path.relative_to(ROOT)}:{number}", line


def helps() -> Iterator[tuple[str, str]]:
    """The help of every command and option, and the README."""
    for name, command, _keys in cli_reference.commands():
        yield f"qlaunch {name} --help", command.help or ""
        for option in command.params:
            if isinstance(option, click.Option):
                yield f"qlaunch {name} {option.opts[0]}", option.help or ""
    readme = re.sub(r"```.*?```", "", (ROOT / "README.md").read_text("utf-8"), flags=re.DOTALL)
    yield "README.md", readme


@functools.cache
def told() -> tuple[tuple[str, str], ...]:
    """All of them, read once."""
    return (*messages(), *helps())


@pytest.mark.parametrize("phrase", UNUSED, ids=list(UNUSED.values()))
def test_a_phrase_we_do_not_use(phrase: str) -> None:
    pattern = re.compile(phrase, re.IGNORECASE)
    found = [
        f"{place}: {text[max(0, match.start() - 30) : match.end() + 30]!r}"
        for place, text in told()
        for match in pattern.finditer(text)
    ]
    assert found == [], f"say instead: {UNUSED[phrase]}"


def test_the_phrases_are_found_where_they_stand() -> None:
    wrong = ["it is no file", "vectors are none", "it answers no more and any more", "begin anew"]
    right = ["there is no file here", "it is no longer there", "no closer", "is not a file"]
    patterns = [re.compile(phrase, re.IGNORECASE) for phrase in UNUSED]
    assert all(any(p.search(text) for p in patterns) for text in wrong)
    assert not any(p.search(text) for p in patterns for text in right)


BINARY = re.compile(r"\d\s[KMG]iB\b")
"""A size as it is told, `4 GiB`. One to be typed stands without a blank: `4GiB`."""
PAGES = (
    *(page for page in (ROOT / "docs").rglob("*.md") if page.name != "decisions.md"),
    *(ROOT / "profiles").rglob("*.yaml"),
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
)


def test_sizes_are_told_in_one_unit() -> None:
    """`plan` said 5.5 GB where the profile said 5.5 GiB: 7 % apart, and which one was right?"""
    texts = [*told(), *((page.name, page.read_text("utf-8")) for page in PAGES)]
    assert len(texts) > 1000
    found = [f"{place}: {m[0]}" for place, text in texts for m in BINARY.finditer(text)]
    assert found == [], "say it in kB, MB or GB, as launcher.units.size does"
    assert BINARY.search("it needs 4 GiB") is not None
