"""`qlaunch scale`: another number of replicas, while the service goes on serving."""

from __future__ import annotations

import click

from launcher.app.replicas import scaled
from launcher.cli import service_text
from launcher.cli.base import command as declare
from launcher.cli.progress import Progress
from launcher.cli.result import Result
from launcher.cli.up import FollowChange
from launcher.service import control


@declare("scale")
@click.argument("service")
@click.argument("count", type=click.IntRange(1, 32), metavar="N")
@click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")
def command(service: str, count: int, quiet: bool) -> Result:
    """Have SERVICE run N replicas, and return when all of them are verified and serve.

    The service must have been started with --replicas, or `replicas:` in its profile. It goes on
    serving: new replicas are verified before requests reach them; those whose part of the machine
    changes are started again one after another; those that leave finish their requests first. An
    interruption ends the waiting, not the change.
    """
    progress = Progress(quiet=quiet)
    try:
        state = scaled(service, count, progress.line, FollowChange(progress))
    finally:
        progress.done()
    return Result(data=control.status_of(state), lines=service_text.service(state, brief=True))
