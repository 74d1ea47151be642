"""`qlaunch completion`: the shell's own script."""

from __future__ import annotations

import click

from launcher.cli.base import COMPLETION_VARIABLE
from launcher.cli.base import command as declare
from launcher.cli.result import Result


@declare("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="SHELL")
def command(shell: str) -> Result:
    """Print the completion script for SHELL: bash, zsh or fish.

    It completes commands, options, and the names of profiles, services, models, runs and engines.
    To have it in every shell, put one of these into its start file:

    \b
        eval "$(qlaunch completion bash)"      ~/.bashrc
        eval "$(qlaunch completion zsh)"       ~/.zshrc, after compinit
        qlaunch completion fish | source       ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    from launcher.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None  # click knows the three shells of the choice above
    script = kind(cli, {}, "qlaunch", COMPLETION_VARIABLE).source()
    return Result(data={"shell": shell, "script": script}, lines=script.splitlines(), verbatim=True)
