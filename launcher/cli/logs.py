"""`qlaunch logs`: the engine's own words."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path

import click

from launcher.cli import screen
from launcher.cli.base import command as declare
from launcher.cli.base import wants_json
from launcher.cli.result import Result, stream
from launcher.documents.service_state import at_work
from launcher.errors import ExitCode, QlaunchError
from launcher.paths import dirs
from launcher.record.runs import load_run
from launcher.service import control, logs


@declare("logs", json_help='Print one JSON document; with --follow one {"line": …} a line.')
@click.argument("service")
@click.option("--follow", "-f", is_flag=True, help="Go on with new lines until the engine ends.")
@click.option(
    "--lines",
    "-n",
    type=click.IntRange(min=0),
    help="Last lines (default 50, on a terminal what fits; with --since or --crash all).",
)
@click.option("--since", metavar="TIME", help="From then on: 30s, 10m, 2h, 1d ago, or a time.")
@click.option("--run", "run_id", metavar="RUN", help="A run of SERVICE other than its last one.")
@click.option("--crash", is_flag=True, help="Show the log of the most recent crash.")
def command(
    service: str,
    follow: bool,
    lines: int | None,
    since: str | None,
    run_id: str | None,
    crash: bool,
) -> Result:
    """Show the engine log of SERVICE: the last lines, scrubbed of secrets.

    Of a service with replicas the logs of all, each line after the replica's number; NAME.1 names
    one of them.
    """
    run = _run(service, run_id)
    folders = _folders(service, run)
    folder = dirs().runs / run
    if not folders:
        _require_log(service, run, folder)
    when = None if since is None else _time(since, datetime.now().astimezone())
    if crash:
        if follow:
            raise click.UsageError("--crash shows what is over; it cannot be followed")
        return _crash(service, run, [*folders.values()] or [folder], lines, when)
    unasked = lines is None and when is None
    if unasked:
        lines = 50
    if follow:
        return _follow(service, run, folders or folder, lines, when)
    if folders:
        parts = {label: logs.tail(each, lines, when) for label, each in folders.items()}
        found = logs.merged(parts, lines)
    else:
        found = logs.tail(folder, lines, when)
    shown = screen.last(found) if unasked else found
    return Result(data={"run": run, "lines": found}, lines=shown, verbatim=True)


_AGO = re.compile(r"(\d{1,9})([smhd])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _time(text: str, now: datetime) -> datetime:
    """The local time that `--since` means: engines write local time.

    Raises:
        click.UsageError: it is neither a span nor an ISO 8601 time.
    """
    ago = _AGO.fullmatch(text)
    try:
        if ago:
            return (now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})).replace(tzinfo=None)
        return datetime.fromisoformat(text).astimezone().replace(tzinfo=None)
    except (ValueError, OverflowError) as error:
        message = f"--since {text!r} is neither a span such as 10m nor a time such as "
        raise click.UsageError(f"{message}2026-01-31T12:00") from error


def _folders(service: str, run: str) -> dict[str, Path]:
    """By label: the logs of a set's replicas and of its gateway; empty for a single engine."""
    state = control.status(service)
    if state.run != run or not state.replicas:
        return {}
    runs = dirs().runs
    found = {
        each.service.rpartition(".")[2]: runs / each.run for each in state.replicas if each.run
    }
    return {**found, "gateway": runs / run}


def _crash(
    service: str, run: str, folders: list[Path], lines: int | None, since: datetime | None
) -> Result:
    all_kept = [path for folder in folders for path in logs.crash_logs(folder)]
    kept = sorted(all_kept, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    if not kept:
        raise QlaunchError(
            f"no engine of run {run} of {service!r} has died",
            code="no_crash_log",
            fix=f"qlaunch logs {service} shows the log as it is; --run names an earlier run",
        )
    found = logs.read(kept[0], lines, since)
    return Result(data={"run": run, "file": str(kept[0]), "lines": found}, lines=found)


def _run(service: str, wanted: str | None) -> str:
    if wanted is None:
        return control.status(service).run
    found = load_run(dirs().runs, wanted)
    if found.service != service:
        raise click.UsageError(f"run {found.run} is one of service {found.service!r}")
    return found.run


def _require_log(service: str, run: str, folder: Path) -> None:
    """Refuse to show nothing for a log that is not there.

    Raises:
        QlaunchError: `log_gone` (exit 2).
    """
    there = any((folder / name).exists() for name in (logs.LOG_NAME, f"{logs.LOG_NAME}.1"))
    if there or (folder.is_dir() and at_work(control.status(service))):
        return  # an engine that has said nothing yet has no file yet
    what = "the engine wrote nothing, or its log was removed"
    if not folder.is_dir():
        what = f"its folder {folder} was removed"
    raise QlaunchError(
        f"there is no log of run {run or '?'} of {service!r}: {what}",
        code="log_gone",
        fix="qlaunch runs list shows the runs there are; --run names one",
    )


def _follow(
    service: str,
    run: str,
    place: Path | dict[str, Path],
    lines: int | None,
    since: datetime | None,
) -> Result:
    def ended() -> bool:
        state = control.status(service)
        return state.run != run or not at_work(state)

    as_json = wants_json()
    try:
        found = (
            logs.follow(place, lines=lines, since=since, ended=ended)
            if isinstance(place, Path)
            else logs.follow_all(place, lines=lines, since=since, ended=ended)
        )
        for line in found:
            if not stream(line, as_json=as_json):
                break
    except KeyboardInterrupt:
        # The usual end of following. No document: scripts read one object a line here.
        return Result(data={}, exit_code=ExitCode.INTERRUPTED, streamed=True)
    return Result(data={}, streamed=True)
