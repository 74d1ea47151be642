"""What the shell may complete: commands, options, and the names of what there is.

Answered from a table (`completion_table.json`, written by `python -m tools.cli_reference`) and from
the names of files, so that no command is imported: a key press waits for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NotRequired, TypedDict

from launcher.cli.base import COMPLETION_VARIABLE

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem

TABLE: Final = Path(__file__).with_name("completion_table.json")
_PACKAGE: Final = Path(__file__).resolve().parents[1]
_RUNS: Final = 30
"""Newest runs that are offered."""


class Argument(TypedDict):
    """What may stand at a place: words, `@` and a key of `_SOURCES`; None where nothing does."""

    value: list[str] | None


class Option(Argument):
    """An option; without a value it is a flag."""

    help: str


class Node(TypedDict):
    """A command, and what may follow it."""

    options: dict[str, Option]
    arguments: NotRequired[list[Argument]]
    commands: NotRequired[dict[str, str]]
    """Help by name, of a group."""


def answer(program: click.Command, instruction: str) -> int:
    """Write the completions of the words that the shell gives in the environment.

    Whatever fails, fails without a word: it would stand in the line that somebody types.
    """
    try:
        return _answer(program, instruction)
    except Exception:  # noqa: BLE001  # as said above: also a full disk, a reader that has gone
        return 1


def _answer(program: click.Command, instruction: str) -> int:
    from click.shell_completion import get_completion_class

    kind = get_completion_class(instruction.partition("_")[0])
    if kind is None or not instruction.endswith("_complete"):
        return 1
    shell = kind(program, {}, "qlaunch", COMPLETION_VARIABLE)
    table: dict[str, Node] = json.loads(TABLE.read_text("utf-8"))
    words, incomplete = shell.get_completion_args()
    items = completions(table, words, incomplete)
    # By the descriptor: nothing is left to be flushed, and to fail, at the end.
    lines = "".join(f"{shell.format_completion(item)}\n" for item in items)
    os.write(1, lines.encode("utf-8", "surrogateescape"))
    return 0


def completions(
    table: Mapping[str, Node], words: Sequence[str], incomplete: str
) -> list[CompletionItem]:
    """What `incomplete` may become after `words`, which stand before it on the command line."""
    words, incomplete = _rejoined(words, incomplete)
    if "--" in words:
        return []  # the engine's own options
    path, places, option = _walk(table, words)
    node = table[path]
    name, sign, value = incomplete.partition("=")
    if option is not None:
        return _of(node["options"][option], incomplete)
    if sign and name in node["options"]:
        return _of(node["options"][name], value, before=f"{name}=")
    if incomplete.startswith("-"):
        return _items({name: each["help"] for name, each in node["options"].items()}, incomplete)
    if "commands" in node:
        return _items(node["commands"], incomplete)
    kinds = node["arguments"]
    if not kinds:
        return []
    return _of(kinds[min(places, len(kinds) - 1)], incomplete)


def _rejoined(words: Sequence[str], incomplete: str) -> tuple[list[str], str]:
    """Bash takes `--color=al` apart: `--color`, `=`, `al`."""
    incomplete = "" if incomplete == "=" else incomplete
    return [word for word in words if word != "="], incomplete


def _walk(table: Mapping[str, Node], words: Sequence[str]) -> tuple[str, int, str | None]:
    """The command that `words` name, its arguments that stand there, an option without a value."""
    path, places, waiting = "", 0, None
    for word in words:
        node = table[path]
        if waiting is not None:
            waiting = None
        elif word.startswith("-"):
            kind = node["options"].get(word)
            waiting = word if kind is not None and kind["value"] is not None else None
        elif word in node.get("commands", ()):
            path = f"{path} {word}".strip()
        else:
            places += 1
    return path, places, waiting


def _items(named: Mapping[str, str], incomplete: str) -> list[CompletionItem]:
    """Commands or options with their help."""
    from click.shell_completion import CompletionItem

    return [
        CompletionItem(name, help=text)
        for name, text in named.items()
        if name.startswith(incomplete)
    ]


def _of(kind: Argument, incomplete: str, *, before: str = "") -> list[CompletionItem]:
    """Values of an option or argument: its choices, or the names of what there is."""
    from click.shell_completion import CompletionItem

    wanted = kind["value"]
    if wanted is None:
        return []
    names = [
        name
        for part in wanted
        for name in (_SOURCES[part[1:]]() if part.startswith("@") else [part])
    ]
    items = [CompletionItem(before + n) for n in dict.fromkeys(names) if n.startswith(incomplete)]
    takes_files = "@files" in wanted
    if takes_files and (not items or incomplete.startswith((".", "/", "~"))):
        items.append(CompletionItem(incomplete, type="file"))
    return items


def _stems(*folders: Path) -> Iterator[str]:
    """Names of the YAML files in folders that are not hidden, such as an editor's draft; sorted."""
    files = [Path(entry.name) for folder in folders for entry in _entries(folder)]
    yield from sorted(
        {file.stem for file in files if file.suffix in {".yaml", ".yml"} and file.name[0] != "."}
    )


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def _profiles() -> Iterator[str]:
    from launcher.paths import dirs

    return _stems(*_shipped(), dirs().config / "profiles")


def _models() -> Iterator[str]:
    from launcher.paths import dirs

    own = dirs().config / "profiles" / "models"
    return _stems(*(folder / "models" for folder in _shipped()), own)


def _shipped() -> tuple[Path, Path]:
    """Where profiles are in a wheel, and in a checkout."""
    return _PACKAGE / "_profiles", _PACKAGE.parent / "profiles"


def _engines() -> Iterator[str]:
    """The keys at the beginning of a line: reading the YAML as such takes three times as long."""
    text = (_PACKAGE / "engine" / "releases.yaml").read_text("utf-8")
    for line in text.splitlines():
        if line.endswith(":") and line[0].isalnum():
            yield line[:-1]


def _services() -> Iterator[str]:
    from launcher.paths import dirs

    for entry in _entries(dirs().state / "services"):
        if (Path(entry.path) / "state.json").exists():
            yield entry.name


def _runs() -> Iterator[str]:
    from launcher.paths import dirs

    yield "latest"
    yield from [entry.name for entry in reversed(_entries(dirs().state / "runs"))][:_RUNS]


_SOURCES: Final[Mapping[str, Callable[[], Iterator[str]]]] = {
    "profiles": _profiles,
    "models": _models,
    "engines": _engines,
    "services": _services,
    "runs": _runs,
    "files": lambda: iter(()),
}
"""What stands for names in the table, behind an `@`."""
