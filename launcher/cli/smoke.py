"""`qlaunch smoke`: check a service's vectors, or bring a profile up, show it, and take it down."""

from __future__ import annotations

from typing import Any

import click

from launcher.app.running_service import api_key, engines
from launcher.cli import service_text
from launcher.cli.base import command as declare
from launcher.cli.options import plan_options, split, start_options
from launcher.cli.progress import Progress
from launcher.cli.result import Result
from launcher.cli.up import started
from launcher.service import control


@declare("smoke")
@plan_options
@click.option(
    "--up",
    "from_start",
    is_flag=True,
    help="Start the profile first, show what it took, and stop it again.",
)
def command(words: tuple[str, ...], from_start: bool, **given: Any) -> Result:
    """Check the vectors of a running SERVICE, or with --up of a PROFILE from start to stop.

    Without --up the first word is the name of a running service. Exit 7 when a check fails.
    """
    if from_start:
        return _from_start(words, given)
    name, extra = split(words, click.get_current_context().find_root().obj or [])
    if name is None:
        raise click.UsageError("name one running service, or give --up")
    if shaping := start_options(given, extra):
        raise click.UsageError(
            f"these options shape a start, and a running service is checked as it is: {shaping};"
            " --up starts one with them, checks it and stops it"
        )
    return _running(name)


def _running(name: str) -> Result:
    asked = engines(name)
    from launcher.service.supervisor.smoke_process import verify_request
    from launcher.verify.smoke import run_smoke

    reports = {
        plan.service: (endpoint, run_smoke(verify_request(plan, endpoint), key=api_key(plan)))
        for plan, endpoint in asked
    }
    # What decides: the first that fails, if any does.
    one = next((each for each, (_, report) in reports.items() if not report.ok), None)
    endpoint, report = reports[one or asked[0][0].service]
    data: dict[str, object] = {"service": name, "endpoint": endpoint}
    if asked[0][0].part_of is not None:
        data["replicas"] = {each: found.ok for each, (_, found) in reports.items()}
    data["smoke"] = report
    return service_text.judged(
        one or name, data, report, service_text.checks(report), "smoke_failed"
    )


def _from_start(words: tuple[str, ...], given: dict[str, object]) -> Result:
    with started(words, given, Progress()) as (_plan, state):
        pass  # its start proves it
    return Result(data=control.status_of(state), lines=service_text.service(state))
