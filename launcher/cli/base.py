"""How a command is declared: parse, call, return a Result. Lazy, so that `--help` is quick."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from launcher.errors import ExitCode, QlaunchError

if TYPE_CHECKING:
    from launcher.cli.result import Result
    from launcher.cli.screen import Choice

Body = Callable[..., "Result"]
COMPLETION_VARIABLE: Final = "_QLAUNCH_COMPLETE"
"""Set by the shell's script: `bash_complete`, `zsh_complete` or `fish_complete`."""
_META: Final = "launcher.cli."


class CommandGroup(click.Group):
    """A group that says the nearest name for a command it does not have."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """A group without a command shows its help and exits 2: nothing was asked of it."""
        if not args and not ctx.resilient_parsing:
            click.echo(self.first_screen(ctx), err=True)
            ctx.exit(int(ExitCode.USAGE))
        return super().parse_args(ctx, args)

    def first_screen(self, ctx: click.Context) -> str:
        """What the group alone shows: its help."""
        return ctx.get_help()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Say the nearest name for one that does not exist."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            from launcher.cli.suggestions import did_you_mean

            ctx.fail(f"there is no command {args[0]!r}{did_you_mean(ctx, self, args[0])}")
        return super().resolve_command(ctx, args)


class LazyGroup(CommandGroup):
    """A group whose commands are imported when they are used.

    `lazy` maps a name to its module and its one-line help, so that listing them imports none;
    `sections` says under which heading of the help each stands; `first` is shown where no command
    is named.
    """

    def __init__(
        self,
        *args: Any,
        lazy: Mapping[str, tuple[str, str]],
        sections: Mapping[str, tuple[str, ...]],
        first: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy
        self._sections = sections
        self._first = first

    def first_screen(self, ctx: click.Context) -> str:
        """What the program alone shows: the commands one begins with, on one screen."""
        return f"{ctx.get_usage()}\n\n{self._first}"

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
        """List the commands from the table alone, by what they are for."""
        placed = {name for names in self._sections.values() for name in names}
        sections = {**self._sections, "Others": tuple(n for n in self._lazy if n not in placed)}
        width = max(map(len, self._lazy))
        for title, names in sections.items():
            rows = [(f"{n:<{width}}", self._lazy[n][1]) for n in names if n in self._lazy]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


class NoEmptyValues(click.Command):
    """A command that refuses an option whose value is empty: most often a variable that is not set.

    Taken as it is, an empty file name is the working directory, and an empty user is root.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse before a value is made something else of."""
        if not ctx.resilient_parsing and any(not word or word.endswith("=") for word in args):
            self._refuse(ctx, args)
        return super().parse_args(ctx, args)

    def _refuse(self, ctx: click.Context, args: list[str]) -> None:
        given, _, _ = self.make_parser(ctx).parse_args(list(args))
        for option in self.params:
            value = given.get(option.name or "")
            values = value if isinstance(value, list | tuple) else [value]
            if "" in values:
                is_option = isinstance(option, click.Option)
                name = max(option.opts, key=len) if is_option else option.human_readable_name
                text = f"{name} is given an empty value: give it one, or leave it out"
                raise click.UsageError(text, ctx)


def output_options(json_help: str, *, hidden: bool = True) -> Callable[[Any], Any]:
    """`--json`, `--verbose`, `--color` and `--debug`, which count wherever they stand.

    Args:
        json_help: help of `--json`.
        hidden: leave all but `--json` out of the help; the program's own help has them.
    """

    def option(*words: str, **attributes: Any) -> Callable[[Any], Any]:
        key = _META + words[0].removeprefix("--")

        def remember(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
            if value:
                ctx.meta[key] = value

        return click.option(
            *words, expose_value=False, is_eager=True, callback=remember, **attributes
        )

    def decorate(body: Any) -> Any:
        for add in (
            option(
                "--debug",
                is_flag=True,
                hidden=hidden,
                help="Write the traceback of an error to a file, and name it.",
            ),
            option(
                "--color",
                type=click.Choice(["auto", "always", "never"]),
                hidden=hidden,
                help="Colours: auto (on a terminal, unless NO_COLOR is set), always or never.",
            ),
            option("--verbose", "-v", is_flag=True, hidden=hidden, help="Also say why."),
            option("--json", is_flag=True, help=json_help),
        ):
            body = add(body)
        return body

    return decorate


def all_option(text: str = "Show everything, however long.") -> Callable[[Any], Any]:
    """`--all` of a command whose text is cut to one screen; its parameter is `everything`."""
    return click.option("--all", "-a", "everything", is_flag=True, help=text)


def _asked(name: str) -> Any:
    context = click.get_current_context(silent=True)
    return context.meta.get(_META + name) if context else None


def wants_json() -> bool:
    """Whether the command that runs now was given `--json`."""
    return bool(_asked("json"))


def wants_reasons() -> bool:
    """Whether the command that runs now was given `--verbose`."""
    return bool(_asked("verbose"))


def color_choice() -> Choice:
    """What `--color` says to the command that runs now."""
    choice: Choice = _asked("color") or "auto"
    return choice


def group(name: str, text: str) -> CommandGroup:
    """A group of commands; `text` is its help."""
    made = CommandGroup(name, help=text)
    output_options("The same as --json after the command.")(made)
    return made


def run(name: str, body: Callable[[], Result]) -> None:
    """Call a command's body, print what it returns, and exit with its code."""
    from launcher.app.interrupts import terminated_as_interrupted
    from launcher.cli.result import failure, render
    from launcher.linux import limits

    limits.raise_soft()
    try:
        with terminated_as_interrupted():
            result = body()
    except QlaunchError as error:
        result = failure(_explained(name, error))
        if _asked("debug"):
            from launcher.cli import debugging

            click.echo(debugging.note(error), err=True)
    render(name, result, as_json=wants_json(), colour=color_choice())
    click.get_current_context().exit(int(result.exit_code))


def _explained(name: str, error: QlaunchError) -> QlaunchError:
    if error.code != "bad_service_name":
        return error
    from launcher.cli.service_words import explained

    return explained(name, error)


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

        with_options = output_options(json_help)(wrapper)
        make: Callable[[Callable[..., None]], click.Command] = click.command(
            name.rsplit(" ", 1)[-1], cls=NoEmptyValues, **attributes
        )
        return make(with_options)

    return decorate
