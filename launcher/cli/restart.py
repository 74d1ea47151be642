"""`qlaunch restart`: stop a service and start it again from the same plan."""

from __future__ import annotations

import click

from launcher.cli import service_text
from launcher.cli.base import command as declare
from launcher.cli.progress import Progress
from launcher.cli.result import Result
from launcher.cli.up import Follow
from launcher.service import control, store


@declare("restart")
@click.argument("service")
@click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")
def command(service: str, quiet: bool) -> Result:
    """Stop SERVICE and start it again from the plan it was started with.

    The profile is not read again: after a change there, use `down` and `up`.
    """
    control.status(service)
    plan = store.read_plan(store.folder(service))
    progress = Progress(quiet=quiet)
    done = control.down(service)
    progress.line(f"{service}: stopped" if done.was_running else f"{service}: was not running")
    try:
        state = control.launch(plan, on_change=Follow(progress))
    finally:
        progress.done()
    data = control.as_data(state)
    return Result(data=data, lines=service_text.service(data))
