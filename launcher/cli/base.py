"""How a command is declared: parse, call, return a Result. Lazy, so that `--help` is quick."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import click

from launcher.cli.result import Result, failure, render
from launcher.errors import ExitCode, QlaunchError

Body = Callable[..., Result]
_JSON: Final = "launcher.cli.json"


class CommandGroup(click.Group):
    """A group that says the nearest name for a command it does not have."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """A group alone shows its help; it is no success, for nothing was asked of it."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(int(ExitCode.USAGE))
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Say the nearest name for one that does not exist."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            from launcher.yaml_messages import did_you_mean

            ctx.fail(f"there is no command {args[0]!r}{did_you_mean(args[0], known)}")
        return super().resolve_command(ctx, args)


class LazyGroup(CommandGroup):
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

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_module, text) in self._lazy.items()])


def json_option(text: str) -> Callable[[Any], Any]:
    """`--json`, for commands and for the groups before them: it counts wherever it stands."""

    def remember(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
        if value:
            ctx.meta[_JSON] = True

    return click.option(
        "--json", is_flag=True, expose_value=False, is_eager=True, callback=remember, help=text
    )


def wants_json() -> bool:
    """Whether the command that runs now was given `--json`."""
    return bool(click.get_current_context().meta.get(_JSON))


def group(name: str, text: str) -> CommandGroup:
    """A group of commands; `text` is its help."""
    made = CommandGroup(name, help=text)
    json_option("The same as --json after the command.")(made)
    return made


def run(name: str, body: Callable[[], Result]) -> None:
    """Call a command's body, print what it returns, and exit with its code."""
    try:
        result = body()
    except QlaunchError as error:
        result = failure(error)
    render(name, result, as_json=wants_json())
    click.get_current_context().exit(int(result.exit_code))


def command(
    name: str, *, json_help: str = "Print one JSON document instead of text.", **attributes: Any
) -> Callable[[Body], click.Command]:
    """Declare a command whose body returns a Result; adds `--json`.

    `name` is the full path as users type it (`engine list`): it is the `command` of the JSON.
    """

    def decorate(body: Body) -> click.Command:
        @functools.wraps(body)
        def wrapper(*args: Any, **kwargs: Any) -> None:
            run(name, functools.partial(body, *args, **kwargs))

        with_json = json_option(json_help)(wrapper)
        make: Callable[[Callable[..., None]], click.Command] = click.command(
            name.rsplit(" ", 1)[-1], **attributes
        )
        return make(with_json)

    return decorate
