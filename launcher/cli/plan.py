"""`qlaunch plan`: what `up` would run, and what it would need."""

from __future__ import annotations

from typing import Any

from launcher.app import evidence
from launcher.app.prepare import prepare
from launcher.cli import service_text
from launcher.cli.base import command as declare
from launcher.cli.options import machine_options, plan_options, request
from launcher.cli.progress import Progress
from launcher.cli.result import Result
from launcher.paths import dirs


@declare("plan")
@plan_options
@machine_options
def command(words: tuple[str, ...], **given: Any) -> Result:
    """Show what `up` would run for PROFILE, and what it would need.

    Nothing is started or fetched: the engine and the model must be on this machine, unless --gpu
    or --vram asks about another one.
    """
    prepared = prepare(request(words, given, fetch=False), Progress(quiet=True).line)
    plan = prepared.plan
    data, lines = service_text.plan_data(plan), service_text.plan(plan)
    if not prepared.hardware.assumed:  # runs of this machine say nothing of another
        data["evidence"] = evidence.of_plan(plan, dirs())
        lines += evidence.lines(data["evidence"])
    return Result(data=data, lines=lines)
