"""`qlaunch plan`: what `up` would run, and what it would need."""

from __future__ import annotations

from typing import Any

from launcher.cli import show
from launcher.cli.base import command as declare
from launcher.cli.options import machine_options, plan_options, request
from launcher.cli.prepare import prepare
from launcher.cli.progress import Progress
from launcher.cli.result import Result


@declare("plan")
@plan_options
@machine_options
def command(words: tuple[str, ...], **given: Any) -> Result:
    """Show what `up` would run for PROFILE, and what it would need.

    Nothing is started or fetched: the engine and the model must be on this machine, unless --gpu
    or --vram asks about another one.
    """
    prepared = prepare(request(words, given, fetch=False), Progress(quiet=True).line)
    return Result(data=show.plan_data(prepared.plan), lines=show.plan(prepared.plan))
