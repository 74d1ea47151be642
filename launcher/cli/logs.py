"""`qlaunch logs`: the engine's own words."""

from __future__ import annotations

import sys

import click

from launcher.cli.base import command as declare
from launcher.cli.result import Result
from launcher.paths import dirs
from launcher.record.runs import load_run
from launcher.service import client, logs


@declare("logs", json_help="Print one JSON object a line: {line}.")
@click.argument("service")
@click.option("--follow", "-f", is_flag=True, help="Go on with new lines until interrupted.")
@click.option(
    "--lines", "-n", type=click.IntRange(min=0), default=50, show_default=True, help="Last lines."
)
@click.option("--run", "run_id", help="A run of this service other than the last one.")
def command(service: str, follow: bool, lines: int, run_id: str | None) -> Result:
    """Show the engine log of SERVICE: the last lines, scrubbed of secrets."""
    where = dirs()
    run_id = load_run(where.runs, run_id).run if run_id else client.status(service).run
    folder = where.runs / run_id
    if not follow:
        found = logs.tail(folder, lines)
        return Result(data={"run": run_id, "lines": found}, lines=found)
    for line in logs.follow(folder, lines=lines):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    return Result(data={"run": run_id})
