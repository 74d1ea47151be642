"""`qlaunch restart`: stop a service and start it again from the same plan."""

from __future__ import annotations

import click
import msgspec

from launcher.app import exporting, replicas
from launcher.app.caching import require_cache
from launcher.app.prepare import prepare, require_fit
from launcher.app.secret_files import require_secrets
from launcher.cli import service_text
from launcher.cli.base import command as declare
from launcher.cli.progress import Progress
from launcher.cli.result import Result
from launcher.cli.up import Follow, FollowChange
from launcher.documents.plan import Plan
from launcher.documents.service_state import ServiceState, at_work
from launcher.documents.status import RestartedStatus
from launcher.service import control, handover, ports, reading, restarting, store
from launcher.service.replica_set import claims


@declare("restart")
@click.argument("service")
@click.option(
    "--reread",
    is_flag=True,
    help="Read the profile and the checkpoint again, with the options the service was given.",
)
@click.option(
    "--at-once",
    is_flag=True,
    help="Stop all replicas together instead of one after another; the new vectors may be others.",
)
@click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")
def command(service: str, reread: bool, at_once: bool, quiet: bool) -> Result:
    """Stop SERVICE and start it again from the plan it was started with.

    Says where the profile changed since then; --reread makes a new plan from it, before the
    running service is stopped. A checkpoint that changed is refused without --reread. Replicas are
    started again one after another, while the others serve; refused where the vectors of the first
    new one are not those of the others.
    """
    state = control.status(service)
    plan = store.read_plan(store.folder(service))
    progress = Progress(quiet=quiet)
    change = exporting.changed(plan.origin) if plan.origin is not None else None
    before = state.supervisor if state.foreground and at_work(state) else None
    rolling = not at_once and replicas.can_roll(state, plan)
    if not rolling and (refusal := reading.kept_by_another(state)) is not None:
        raise refusal
    if not reread:
        require_secrets(plan.api_key_file, plan.cache)
    if not reread and plan.origin is not None:
        exporting.require_same_checkpoint(plan)
        exporting.require_same_engine(plan)
        if change is not None:
            progress.line(f"{change}: it is not read again without --reread")
    try:
        if rolling:
            new = replicas.reread(plan, state, progress.line) if reread else plan
            state = replicas.rolled(new, FollowChange(progress))
        else:
            state = _at_once(state, plan, progress, reread=reread)
    finally:
        progress.done()
    data = RestartedStatus(
        **msgspec.structs.asdict(control.status_of(state)),
        reread=reread,
        profile_changed=change,
        rolling=rolling,
        detached=before is not None and not state.foreground,
    )
    lines = service_text.service(state)
    if data.detached and before is not None:
        lines.append(
            f"note      it ran in the foreground of process {before.pid}, which has ended, and now "
            f"runs in the background: qlaunch down {service} stops it"
        )
    return Result(data=data, lines=lines)


def _at_once(state: ServiceState, plan: Plan, progress: Progress, *, reread: bool) -> ServiceState:
    """Stop the service whole and start it again."""
    new = _again(plan, progress) if reread else plan
    claims.require_names(new)
    require_cache(new)
    # Its own port is free once it is stopped: then the address alone is asked for.
    ports.check_free(new.host, new.port if new.port != plan.port else 0)
    service = plan.service
    store.require_startable(store.folder(service), new)
    with restarting.announced(store.folder(service), state, plan):
        if new.template and (kept := handover.stand_by(service)) is not None:
            with kept:
                progress.line(f"{service}: stopped")
                return kept.launch(_next(plan, progress, reread), on_change=Follow(progress))
        done = control.down(service)
        progress.line(f"{service}: stopped" if done.was_running else f"{service}: was not running")
        return control.launch(_next(plan, progress, reread), on_change=Follow(progress))


def _next(plan: Plan, progress: Progress, reread: bool) -> Plan:
    """What is to be started: with `reread` planned once more, with the memory that is free now."""
    if not reread:
        return plan
    return prepare(exporting.request_again(plan, reread=True), progress.line).plan


def _again(plan: Plan, progress: Progress) -> Plan:
    """The plan made again, and refused where it would not start: the running one is not stopped.

    What the running one takes is free when the new one starts: less than that always fits.
    """
    prepared = prepare(exporting.request_again(plan, reread=True), progress.line)
    new, old = prepared.plan.predicted, plan.predicted
    sizes = ((new.ram_full_bytes, old.ram_full_bytes), (new.gpu_full_bytes, old.gpu_full_bytes))
    if not all((now or 0) <= (before or 0) for now, before in sizes):
        require_fit(prepared)
    return prepared.plan
