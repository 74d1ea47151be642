"""Every `qlaunch …` in the README, the pages of docs/, messages and fixes: the command exists, and
takes those options."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from launcher.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_CODE = re.compile(r"```(?:console|sh|bash|)\n(.*?)```|`([^`\n]+)`", re.DOTALL)
_COMMAND = re.compile(r"(?:^|[\s$(;])qlaunch ((?:[a-z-]+ ?)[^\n|;&)#,]*)", re.MULTILINE)


SCHEMA = "profile"
"""`qlaunch profile` is the title of a schema."""


def in_pages() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block, inline in _CODE.findall(page.read_text("utf-8")):
            for words in _COMMAND.findall(block or inline):
                yield page.relative_to(ROOT).as_posix(), words


def in_messages() -> Iterator[tuple[str, str]]:
    """Commands in the program's own strings: what it tells people to type."""
    for path in sorted((ROOT / "launcher").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            parts: list[str] = []
            if isinstance(node, ast.JoinedStr):
                parts = [
                    str(p.value) if isinstance(p, ast.Constant) else "VALUE" for p in node.values
                ]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts = [node.value]
            for words in _COMMAND.findall("".join(parts)):
                if words != SCHEMA:
                    yield path.name, words


def _is_slip(word: str, group: click.Command) -> bool:
    """Whether a word that is no command was meant as one: `qlaunch reads …` is a sentence."""
    assert isinstance(group, click.Group)
    names = group.list_commands(click.Context(group))
    return bool(difflib.get_close_matches(word, names, cutoff=0.82))


def unknown(line: str) -> str | None:
    """What of a line the program does not know; None where it knows all."""
    words = [word.strip("`'\",.()") for word in line.split(" -- ")[0].split()]
    found: click.Command = cli
    context = click.Context(cli)
    while words and isinstance(found, click.Group) and not words[0].startswith("-"):
        inner = found.get_command(context, words[0])
        if inner is None:
            return words[0] if _is_slip(words[0], found) else None
        found, words = inner, words[1:]
    known = {option for each in found.params for option in each.opts + each.secondary_opts}
    known |= {"--help", "-h", "--json", "--debug", "--color", "-v", "--verbose"}
    asked = [word.partition("=")[0] for word in words if re.match("--?[a-z]", word)]
    return next((word for word in asked if word not in known), None)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_of_a_page_are_understood(page: Path) -> None:
    wrong = [
        (words, unknown(words))
        for name, words in in_pages()
        if name == page.relative_to(ROOT).as_posix()
    ]
    assert [each for each in wrong if each[1] is not None] == []


def test_commands_that_messages_name_are_understood() -> None:
    named = list(in_messages())
    assert len(named) > 100
    assert [(where, words) for where, words in named if unknown(words) is not None] == []


def test_what_is_not_understood_is_seen() -> None:
    assert unknown("stauts svc") == "stauts"
    assert unknown("up cpu-minilm --prot 0") == "--prot"
    assert unknown("engine instal cpu") == "instal"
    assert unknown("up cpu-minilm -- --max-total-tokens 4096") is None
