"""The table that `launcher/cli/completing.py` answers shells from, made of the commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

import click

from launcher.cli.completing import Argument, Node, Option
from launcher.cli.main import cli

_SAME: Final = {
    ("@services",): ("service", "services", "names", "targets"),
    ("@profiles", "@files"): ("profile", "profiles"),
    ("@engines",): ("release", "engine", "deep"),
    ("@runs", "@services", "@files"): ("run", "source", "a", "b"),
    ("@files",): ("html", "markdown", "csv", "output", "api_key_file"),
    ("@runs",): ("run_id",),
    ("@models", "@files"): ("model",),
    ("@profiles", "@services", "@files"): ("words",),
}
_BY_NAME: Final = {name: list(kinds) for kinds, names in _SAME.items() for name in names}
"""What an argument or option takes, by the name of its parameter: the same in every command."""
_OF_COMMAND: Final[dict[tuple[str, str], list[str]]] = {
    ("up", "words"): ["@profiles", "@files"],
    ("plan", "words"): ["@profiles", "@files"],
}


def table() -> dict[str, Node]:
    """Each command (`engine install`; the program is `""`) with what may follow it."""
    root = click.Context(cli, info_name="qlaunch")
    found = {"": _node("", cli, root)}
    for name in cli.list_commands(root):
        command = cli.get_command(root, name)
        assert command is not None  # it is in the table
        found[name] = _node(name, command, root)
        if isinstance(command, click.Group):
            for inner, one in command.commands.items():
                found[f"{name} {inner}"] = _node(f"{name} {inner}", one, root)
    found["help"]["arguments"] = [{"value": [name for name in found if name]}]
    return found


def text() -> str:
    """The table as the file holds it: a line a command."""
    lines = (
        f"{json.dumps(name)}: {json.dumps(node, ensure_ascii=False)}"
        for name, node in table().items()
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _node(name: str, command: click.Command, root: click.Context) -> Node:
    options = dict(_options(name, command))
    options["--help"] = {"value": None, "help": "Show help and exit."}
    if isinstance(command, click.Group):
        names = {
            inner: one.get_short_help_str(limit=80)
            for inner in command.list_commands(root)
            if (one := command.get_command(root, inner)) is not None
        }
        return {"options": options, "commands": names}
    arguments: list[Argument] = [
        {"value": _value(name, parameter)}
        for parameter in command.params
        if isinstance(parameter, click.Argument)
    ]
    return {"options": options, "arguments": arguments}


def _options(name: str, command: click.Command) -> Iterator[tuple[str, Option]]:
    for option in command.params:
        if isinstance(option, click.Option):
            value = None if option.is_flag else _value(name, option)
            for word in (*option.opts, *option.secondary_opts):
                yield word, {"value": value, "help": option.help or ""}


def _value(command: str, parameter: click.Parameter) -> list[str]:
    if isinstance(parameter.type, click.Choice):
        return [str(choice) for choice in parameter.type.choices]
    if isinstance(parameter.type, click.Path):
        return ["@files"]
    name = parameter.name or ""
    return _OF_COMMAND.get((command, name), _BY_NAME.get(name, []))
