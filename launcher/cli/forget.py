"""`qlaunch forget`: nothing more is known of a service that is over."""

from __future__ import annotations

import click
import msgspec

from launcher.cli.base import command as declare
from launcher.cli.result import Problem, Result
from launcher.documents.service_state import at_work
from launcher.errors import ExitCode, QlaunchError
from launcher.linux.removal import bytes_of
from launcher.paths import dirs
from launcher.record.prune import remove_runs
from launcher.record.runs import list_runs
from launcher.service import control
from launcher.service.forget import forget
from launcher.units import counted, size


class Forgotten(msgspec.Struct, frozen=True, kw_only=True):
    """One service of `forget`."""

    service: str
    bytes: int
    runs: tuple[str, ...]


@declare("forget")
@click.argument("names", nargs=-1, metavar="[SERVICE]...")
@click.option("--all", "everything", is_flag=True, help="Every service that is not running.")
@click.option("--runs", is_flag=True, help="Remove their run records too.")
def command(names: tuple[str, ...], everything: bool, runs: bool) -> Result:
    """Remove what is kept of services that are over: plan, state, supervisor's log.

    Their run records stay, unless --runs is given. One that runs is refused; an interruption
    leaves a service whole or gone.
    """
    if bool(names) == everything:
        raise click.UsageError("name the services to forget, or give --all")
    if everything:
        names = tuple(s.service for s in control.services() if not at_work(s))
    problems: list[Problem] = []
    if len(names) == 1:
        results = [_one(names[0], runs=runs)]
    else:
        results, problems = _each(names, runs=runs)
    lines = [
        f"{one.service}: forgotten, {size(one.bytes)}"
        + (f", {counted(len(one.runs), 'run')}" if one.runs else "")
        for one in results
    ]
    return Result(
        data={"services": results},
        lines=lines or ([] if problems else ["no services to forget"]),
        exit_code=ExitCode.PARTIAL if problems else ExitCode.OK,
        status="partial" if problems else "ok",
        problems=problems,
    )


def _each(names: tuple[str, ...], *, runs: bool) -> tuple[list[Forgotten], list[Problem]]:
    """Each in turn: one that is refused does not keep the others.

    Raises:
        QlaunchError: the first one's, where none could be forgotten.
    """
    results, errors = [], []
    for name in dict.fromkeys(names):
        try:
            results.append(_one(name, runs=runs))
        except QlaunchError as error:
            errors.append(error)
    if errors and not results:
        raise errors[0]
    return results, [Problem(error.code, error.message, error.fix) for error in errors]


def _one(name: str, *, runs: bool) -> Forgotten:
    freed = forget(name)
    records = [run for run in list_runs(dirs().runs) if runs and run.service == name]
    freed += sum(bytes_of(dirs().runs / run.run) for run in records)
    remove_runs(dirs().runs, records)
    return Forgotten(service=name, bytes=freed, runs=tuple(run.run for run in records))
