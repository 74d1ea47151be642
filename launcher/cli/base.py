"""How a command is declared: parse, call, return a Result. Lazy, so that `--help` is quick."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import click

from launcher.cli.result import Result, failure, render
from launcher.errors import QlaunchError

Body = Callable[..., Result]


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used.

    `commands` maps a name to its module and its one-line help, so that listing them imports none.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Names in the order of the table: the way a person meets them."""
        return list(self._lazy)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module; its `command` object is the command."""
        if cmd_name not in self._lazy:
            return None
        module = importlib.import_module(self._lazy[cmd_name][0])
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Say the nearest name for one that does not exist."""
        if args and args[0] not in self._lazy and not args[0].startswith("-"):
            from launcher.yamlwords import did_you_mean

            ctx.fail(f"there is no command {args[0]!r}{did_you_mean(args[0], self._lazy)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_module, text) in self._lazy.items()])


def run(name: str, body: Callable[[], Result], *, as_json: bool) -> None:
    """Call a command's body, print what it returns, and exit with its code."""
    try:
        result = body()
    except QlaunchError as error:
        result = failure(error)
    render(name, result, as_json=as_json)
    click.get_current_context().exit(int(result.exit_code))


def command(
    name: str, *, json_help: str = "Print one JSON document instead of text.", **attributes: Any
) -> Callable[[Body], click.Command]:
    """Declare a command whose body returns a Result; adds `--json`.

    `name` is the full path as users type it (`engine list`): it is the `command` of the JSON.
    """

    def decorate(body: Body) -> click.Command:
        @functools.wraps(body)
        def wrapper(*args: Any, as_json: bool, **kwargs: Any) -> None:
            run(name, functools.partial(body, *args, **kwargs), as_json=as_json)

        with_json = click.option("--json", "as_json", is_flag=True, help=json_help)(wrapper)
        make: Callable[[Callable[..., None]], click.Command] = click.command(
            name.rsplit(" ", 1)[-1], **attributes
        )
        return make(with_json)

    return decorate
