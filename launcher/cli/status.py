"""`qlaunch status`: one service."""

from __future__ import annotations

import click

from launcher.cli import service_text
from launcher.cli.base import all_option
from launcher.cli.base import command as declare
from launcher.cli.result import Problem, Result
from launcher.documents.service_state import FINAL, UP, ServiceState
from launcher.documents.status import ServiceStatus
from launcher.errors import ExitCode
from launcher.service import control

_ERROR_LINES = 2
"""Below the text of a service that does not run: what is wrong, and what to try."""


@declare("status")
@click.argument("service")
@click.option("--endpoint", "endpoint_only", is_flag=True, help="Print only the endpoint's URL.")
@click.option(
    "--verified", is_flag=True, help="Exit 3 also while it starts: for health checks of others."
)
@all_option()
def command(service: str, endpoint_only: bool, verified: bool, everything: bool) -> Result:
    """Show SERVICE: state, endpoint, memory, checks. Exit 3 when it is not running."""
    state = control.status(service)
    data = control.status_of(state)
    if verified and state.state not in FINAL | UP:
        return _unverified(state, data)
    running = state.state not in FINAL
    if running and endpoint_only:
        return Result(data=data, lines=[state.endpoint or "-"])
    if running:
        return Result(data=data, lines=_text(state, everything))
    if state.state == "unknown":
        return _unknown(service, state, data, [] if endpoint_only else _text(state, everything))
    message = f"service {service!r} is not running: {state.state}"
    fix = state.failure.fix if state.failure else f"start it: qlaunch restart {service}"
    return Result(
        data=data,
        lines=[] if endpoint_only else _text(state, everything),
        exit_code=ExitCode.NOT_RUNNING,
        status="error",
        problems=(Problem("not_running", message, fix),),
    )


def _text(state: ServiceState, everything: bool) -> list[str]:
    return service_text.fitting(state, everything=everything, below=_ERROR_LINES)


def _unverified(state: ServiceState, data: ServiceStatus) -> Result:
    """It runs, and its vectors are not proved right yet."""
    message = f"service {state.service!r} is not verified: {state.state}"
    return Result(
        data=data,
        lines=service_text.service(state),
        exit_code=ExitCode.NOT_RUNNING,
        status="error",
        problems=(Problem("not_verified", message, "wait for it"),),
    )


def _unknown(service: str, state: ServiceState, data: ServiceStatus, lines: list[str]) -> Result:
    """Neither running nor not, as far as can be told: no script may take it for ready."""
    return Result(
        data=data,
        lines=lines,
        exit_code=ExitCode.NOT_RUNNING,
        status="error",
        problems=(
            Problem(
                "state_unknown",
                f"whether service {service!r} serves is unknown: {state.problem}",
                f"qlaunch down {service} ends it",
            ),
        ),
    )
