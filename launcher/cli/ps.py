"""`qlaunch ps`: every service."""

from __future__ import annotations

from launcher.cli import screen, service_text
from launcher.cli.base import all_option
from launcher.cli.base import command as declare
from launcher.cli.result import Result, table
from launcher.documents.service_state import ServiceState, at_work
from launcher.service import control
from launcher.units import size


@declare("ps")
@all_option("Every service that was ever started, and the whole list.")
def command(everything: bool) -> Result:
    """List services that are running, or all that were ever started."""
    found = [s for s in control.services() if everything or at_work(s) or s.state == "unknown"]
    rows = [row for state in found for row in (_row(state), *_replicas(state))]
    headings = ("SERVICE", "STATE", "ENDPOINT", "PID", "RAM PEAK", "SINCE")
    lines = table(headings, rows) if rows else ["no services are running"]
    lines += [f"{state.service}: {state.problem}" for state in found if state.problem]
    lines += [
        f"{state.service}: {line}"
        for state in found
        for line in map(_folded, service_text.gateway(state))
    ]
    return Result(
        data={"services": [control.status_of(state) for state in found]},
        lines=screen.shorten(lines, everything=everything),
    )


Row = tuple[str, str, str | None, int | None, str, str]


def _row(state: ServiceState) -> Row:
    return (
        state.service,
        state.state,
        state.endpoint,
        state.engine.pid if state.engine else None,
        size(state.measured.ram_peak_bytes),
        state.since,
    )


def _replicas(state: ServiceState) -> list[Row]:
    """A line for each replica of a set at work, below it."""
    if not at_work(state):
        return []
    return [
        (
            f"  {each.service}",
            "serves" if each.serving else each.state,
            each.endpoint,
            each.engine.pid if each.engine else None,
            "",
            "",
        )
        for each in state.replicas
    ]


def _folded(line: str) -> str:
    """A line of `status` without its columns."""
    return " ".join(line.split())
