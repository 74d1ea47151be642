"""`qlaunch runs`: the records of past and present services."""

from __future__ import annotations

from collections.abc import Sequence

import click
from msgspec.structs import asdict

from launcher import units
from launcher.cli import screen
from launcher.cli import service_text as words
from launcher.cli.base import all_option, group
from launcher.cli.base import command as declare
from launcher.cli.benchtable import rows_table
from launcher.cli.result import Result, table
from launcher.cli.runs_report import diff, report
from launcher.documents.measurement import Measurement
from launcher.documents.run import Phase
from launcher.documents.service_state import at_work
from launcher.paths import dirs
from launcher.record.bench import read_bench
from launcher.record.prune import old_runs, remove_runs
from launcher.record.runs import load_run, run_directory, runs_of
from launcher.service import control
from launcher.units import counted, size

_LATEST_ROWS = 6
"""Measurements shown to a person."""

command = group("runs", "List, show, report, compare and remove run records.")


@declare("runs list")
@click.option("--service", help="Only this service's runs.")
@all_option()
def list_(service: str | None, everything: bool) -> Result:
    """List run records, newest first."""
    found = runs_of(dirs().runs, service)
    rows = [
        (run.run, run.outcome, size(run.ram_peak_bytes), run.failure_class, run.profile, run.ended)
        for run in found
    ]
    headings = ("RUN", "OUTCOME", "RAM PEAK", "FAILURE", "PROFILE", "ENDED")
    lines = table(headings, rows) if rows else ["no runs are recorded"]
    return Result(
        data={"runs": found},
        lines=screen.shorten(lines, everything=everything),
    )


@declare("runs show")
@click.argument("run", default="latest")
@all_option()
def show(run: str, everything: bool) -> Result:
    """Show RUN: an id, the beginning of one, a service (its last run), or `latest`."""
    runs = dirs().runs
    found = load_run(runs, run)
    where = run_directory(runs, run)
    measured = read_bench(where)
    data = {**asdict(found), "path": str(where), "plan": found.plan or {}, "bench": measured}
    peak = found.peak
    lines = [
        f"run       {found.run}: {found.outcome}",
        f"service   {found.service} ({found.profile})",
        f"began     {found.began}, ended {found.ended or '-'}",
        f"record    {where}",
        f"RAM       {size(peak.ram_peak_bytes)} {units.peak(peak.method.get('ram'))}",
        f"GPU       {size(peak.gpu_peak_bytes)} {units.peak(peak.method.get('gpu'))}",
        *words.timings(found.timings),
        *words.cache_use(found.cache),
        *_phases(found.phases, everything=everything),
        *words.failure(found.failure),
        *words.checks(found.smoke, brief=not everything),
        *_measured(measured, everything=everything),
    ]
    return Result(data=data, lines=screen.shorten(lines, everything=everything))


def _measured(documents: Sequence[Measurement], *, everything: bool) -> list[str]:
    """What `bench` measured of this life, the newest last."""
    rows = [row for document in documents for row in document.rows]
    if not rows:
        return []
    made = documents[-1].made
    shown = rows if everything else rows[-_LATEST_ROWS:]
    left = f", {len(rows) - len(shown)} older ones: --all" if len(rows) > len(shown) else ""
    return [f"measured under load, until {made}{left}", *rows_table(shown)]


def _phases(phases: Sequence[Phase], *, everything: bool) -> list[str]:
    """The phases a line each, or on as few lines as will do."""
    if everything:
        return ["phases", *(f"  {phase.t_s:8.1f} s  {phase.name}" for phase in phases)]
    text = ", ".join(f"{phase.name} {phase.t_s:.1f} s" for phase in phases)
    return screen.folded(f"phases    {text}", hanging=" " * 10) if text else []


@declare("runs prune")
@click.option(
    "--keep", type=click.IntRange(min=0), required=True, metavar="N", help="Newest runs that stay."
)
@click.option("--service", help="Only this service's runs.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@all_option()
def prune(keep: int, service: str | None, dry_run: bool, everything: bool) -> Result:
    """Remove all but the newest N run records. Those of running services always stay."""
    runs = dirs().runs
    live = frozenset(state.run for state in control.services(replicas=True) if at_work(state))
    found = runs_of(runs, service)
    old = old_runs(found, keep=keep, live=live)
    if not dry_run:
        remove_runs(runs, old)
    done = "would be removed" if dry_run else "removed"
    lines = [*(run.run for run in old), f"{len(old)} of {counted(len(found), 'run')} {done}"]
    lines = screen.shorten(lines, everything=everything, keep=1)
    return Result(data={"removed": [run.run for run in old], "dry_run": dry_run}, lines=lines)


for _command, _name in (
    (list_, "list"),
    (show, "show"),
    (report, "report"),
    (diff, "diff"),
    (prune, "prune"),
):
    command.add_command(_command, _name)
