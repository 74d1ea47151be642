"""`qlaunch runs`: the records of past and present services."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from launcher.cli import show as words
from launcher.cli.base import command as declare
from launcher.cli.result import Result, size, table
from launcher.paths import dirs
from launcher.record.runs import list_runs, load_run, run_directory


@click.group()
def command() -> None:
    """List and show run records."""


@declare("runs list")
@click.option("--service", help="Only this service's runs.")
def list_(service: str | None) -> Result:
    """List run records, newest first."""
    found = [run for run in list_runs(dirs().runs) if service in (None, run.service)]
    rows = [
        (run.run, run.outcome, run.profile, size(run.ram_peak_bytes), run.ended, run.problem)
        for run in found
    ]
    headings = ("RUN", "OUTCOME", "PROFILE", "RAM PEAK", "ENDED", "PROBLEM")
    return Result(
        data={"runs": [msgspec.to_builtins(run) for run in found]},
        lines=table(headings, rows) if rows else ["no runs are recorded"],
    )


@declare("runs show")
@click.argument("run", default="latest")
def show(run: str) -> Result:
    """Show RUN: an id, the unambiguous beginning of one, or `latest`."""
    runs = dirs().runs
    found = load_run(runs, run)
    data: dict[str, Any] = msgspec.to_builtins(found)
    data["path"] = str(run_directory(runs, run))
    peak = found.peak
    lines = [
        f"run       {found.run}: {found.outcome}",
        f"service   {found.service} ({found.profile})",
        f"began     {found.began}, ended {found.ended or '-'}",
        f"record    {data['path']}",
        f"RAM       {size(peak.ram_peak_bytes)} at most ({peak.method.get('ram', 'unavailable')})",
        f"GPU       {size(peak.gpu_peak_bytes)} ({peak.method.get('gpu', 'unavailable')})",
        *words.timings(found.timings),
        "phases",
        *(f"  {phase.t_s:8.1f} s  {phase.name}" for phase in found.phases),
        *words.checks(found.smoke),
        *words.failure(found.failure),
    ]
    return Result(data=data, lines=lines)


for _command, _name in ((list_, "list"), (show, "show")):
    command.add_command(_command, _name)
