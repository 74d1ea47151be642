"""`qlaunch logs`: the engine's own words."""

from __future__ import annotations

from pathlib import Path

import click

from launcher.cli.base import command as declare
from launcher.cli.base import wants_json
from launcher.cli.result import Result, stream
from launcher.errors import ExitCode
from launcher.paths import dirs
from launcher.record.runs import load_run
from launcher.service import client, logs
from launcher.service.types import FINAL


@declare("logs", json_help='Print one JSON document; with --follow one {"line": …} a line.')
@click.argument("service")
@click.option("--follow", "-f", is_flag=True, help="Go on with new lines until the engine ends.")
@click.option(
    "--lines", "-n", type=click.IntRange(min=0), default=50, show_default=True, help="Last lines."
)
@click.option("--run", "run_id", metavar="RUN", help="A run of SERVICE other than its last one.")
def command(service: str, follow: bool, lines: int, run_id: str | None) -> Result:
    """Show the engine log of SERVICE: the last lines, scrubbed of secrets."""
    run = _run(service, run_id)
    folder = dirs().runs / run
    if follow:
        return _follow(service, run, folder, lines)
    found = logs.tail(folder, lines)
    return Result(data={"run": run, "lines": found}, lines=found)


def _run(service: str, wanted: str | None) -> str:
    if wanted is None:
        return client.status(service).run
    found = load_run(dirs().runs, wanted)
    if found.service != service:
        raise click.UsageError(f"run {found.run} is one of service {found.service!r}")
    return found.run


def _follow(service: str, run: str, folder: Path, lines: int) -> Result:
    def ended() -> bool:
        state = client.status(service)
        return state.run != run or state.state in FINAL

    as_json = wants_json()
    try:
        for line in logs.follow(folder, lines=lines, ended=ended):
            if not stream(line, as_json=as_json):
                break
    except KeyboardInterrupt:
        # The usual end of following. No document: scripts read one object a line here.
        return Result(data={}, exit_code=ExitCode.INTERRUPTED, streamed=True)
    return Result(data={}, streamed=True)
