"""`qlaunch plan`: what `up` would run, and what it would need."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType

from launcher.app import evidence
from launcher.app.prepare import prepare
from launcher.cli import screen, service_text
from launcher.cli.base import all_option
from launcher.cli.base import command as declare
from launcher.cli.options import machine_options, plan_options, request
from launcher.cli.progress import Progress
from launcher.cli.result import Result
from launcher.documents.evidence import Evidence
from launcher.paths import dirs


@declare("plan")
@plan_options
@machine_options
@all_option("Also the environment, and each term of the memory.")
def command(words: tuple[str, ...], everything: bool, **given: Any) -> Result:
    """Show what `up` would run for PROFILE or MODEL, and what it would need.

    Nothing is started or fetched. What is not on this machine is planned from the model's card, or
    from a hub's metadata in the cache, and the plan says so.
    """
    asked = request(words, given, fetch=False, foresee=True)
    prepared = prepare(asked, Progress(quiet=True).line)
    plan = prepared.plan
    lines = service_text.prepared(prepared, brief=not everything)
    known: Evidence | UnsetType = UNSET
    if not prepared.hardware.assumed:  # runs of this machine say nothing of another
        known = evidence.of_plan(plan, dirs(), asked.profile)
        lines += evidence.lines(known)
    data = service_text.plan_report(prepared, known)
    return Result(data=data, lines=screen.shorten(lines, everything=everything, keep=1))
