"""`qlaunch help`: the help of a command by its name, and the manual page."""

from __future__ import annotations

import click

from launcher.cli.base import command as declare
from launcher.cli.result import Result
from launcher.cli.suggestions import did_you_mean


@declare("help")
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
@click.option("--man", is_flag=True, help="Print the manual page, for `man -l -`.")
def command(words: tuple[str, ...], man: bool) -> Result:
    """Show the help of COMMAND (`qlaunch help engine install`), or of the program."""
    context = click.get_current_context().find_root()
    found: click.Command = context.command
    if man:
        return _manual(words, found)
    for word in words:
        inner = found.get_command(context, word) if isinstance(found, click.Group) else None
        if inner is None:
            hint = did_you_mean(context, found, word) if isinstance(found, click.Group) else ""
            raise click.UsageError(f"there is no command {word!r}{hint}", context)
        context = click.Context(inner, info_name=word, parent=context)
        found = inner
    text = found.get_help(context)
    data = {"command": context.command_path, "text": text}
    return Result(data=data, lines=text.split("\n"), verbatim=True)


def _manual(words: tuple[str, ...], root: click.Command) -> Result:
    from launcher.cli import manpage

    if words:
        raise click.UsageError("the manual page is of all commands: give --man alone")
    assert isinstance(root, click.Group)  # the program
    text = manpage.page(root)
    return Result(data={"command": "qlaunch", "text": text}, lines=text.splitlines(), verbatim=True)
