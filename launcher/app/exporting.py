"""The plan that an export carries: of a service as it was started, or of a profile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from launcher.app import named_model, origin
from launcher.app.prepare import Request, prepare, profiles_dir
from launcher.config.loading import find_profile, load_profile
from launcher.documents.plan import Origin, Plan
from launcher.documents.service_state import UP
from launcher.engine import releases
from launcher.engine.environments import install
from launcher.engine.environments.environment_probe import versions
from launcher.errors import ExitCode, QlaunchError
from launcher.fleet import start_command
from launcher.model.inspect import inspect
from launcher.paths import dirs
from launcher.service import control, store


@dataclass(frozen=True)
class Exported:
    """A plan to write down elsewhere."""

    plan: Plan
    notes: tuple[str, ...]
    """What is not as whoever asked may think, in sentences."""


def resolve(
    request: Request, progress: Callable[[str], None], *, from_profile: bool = False
) -> Exported:
    """The plan of the service that `request.profile` names, or that serves the model it names;
    else of the profile, or of the best one for the model.

    What the request gives besides goes before what the service was started with. Nothing is
    fetched or started.

    Raises:
        QlaunchError: `prepare`'s own; `checkpoint_changed` (exit 2), `profile_changed` (exit 9)
            where the service runs with what is not on the disk any more; `export_impossible` (2).
    """
    name = named_model.meant(request.profile or "", profiles_dir(dirs()))
    notes: tuple[str, ...] = ()
    made_by: Origin | None = None
    if not from_profile and name in store.list_services() and store.folder(name).plan.exists():
        stored = store.read_plan(store.folder(name))
        request, notes = _of_service(stored, request)
        made_by = start_command.origin(stored)
    plan = prepare(replace(request, fetch=False), progress).plan
    came_from = start_command.origin(plan)
    if made_by is not None:  # this shell's variables are not those of the one that started it
        came_from = msgspec.structs.replace(
            came_from, environ=made_by.environ, withheld=made_by.withheld
        )
        plan = msgspec.structs.replace(plan, origin=came_from)
    left = tuple(f"not carried: {one} ({why})" for one, why in came_from.withheld.items())
    return Exported(plan, (*notes, *left))


def _of_service(stored: Plan, request: Request) -> tuple[Request, tuple[str, ...]]:
    """The request that makes the plan of a service again, with what `request` gives on top."""
    name, came_from = stored.service, start_command.origin(stored)
    _require_same_profile(name, came_from)
    given = {key: value for key, value in request.given.items() if value is not None}
    ports = {key: value for key, value in _ports(name, came_from).items() if key not in given}
    notes = [f"exports service {name} as it was started{_is_profile_too(name)}"]
    notes += [
        f"{start_command.OPTIONS[key]} {value}: what it has now" for key, value in ports.items()
    ]
    again = request_again(stored)
    merged = replace(
        again,
        given={**again.given, **ports, **given},
        extra=(*again.extra, *request.extra),
        expect_fingerprint=None if "model" in given else stored.fingerprint,
    )
    return merged, tuple(notes)


def request_again(plan: Plan, *, reread: bool = False) -> Request:
    """What has to be asked for to have the plan made again, from what is on the disk now.

    Args:
        reread: let the profile decide again what it decided: model, engine and address too.

    Raises:
        QlaunchError: `export_impossible` (exit 2): nothing tells what it was made from.
    """
    came_from = start_command.origin(plan)
    decided = came_from.of_profile if reread else ()
    return Request(
        profile=came_from.profile,
        given={name: value for name, value in came_from.settings.items() if name not in decided},
        extra=came_from.extra,
        environ={},
        as_set=plan.replica_set is not None,
    )


def require_same_checkpoint(plan: Plan) -> None:
    """Refuse to start a plan on a checkpoint that is not the one it was made for.

    Raises:
        QlaunchError: `checkpoint_changed` (exit 2), or what is wrong with the checkpoint now.
    """
    origin.require_fingerprint(
        inspect(Path(plan.model_path)),
        plan.fingerprint,
        fix=f"put the old files back; or take the new ones: qlaunch restart {plan.service} "
        "--reread",
    )


def require_same_engine(plan: Plan) -> None:
    """Refuse to start a plan with an engine that is gone, or another version than it was made for.

    Raises:
        QlaunchError: `engine_missing`, `engine_changed`, `engine_broken` (exit 5).
    """
    python, wanted = plan.engine.python, plan.engine.version
    fix = f"plan for what is there, or have it installed: qlaunch restart {plan.service} --reread"
    try:
        found = versions(Path(python)).sglang
    except QlaunchError as error:
        raise QlaunchError(
            error.message, code="engine_missing", exit_code=ExitCode.ENGINE, fix=fix
        ) from error
    if found != wanted:
        raise QlaunchError(
            f"{python} holds SGLang {found} now, and {plan.service!r} was planned for {wanted}",
            code="engine_changed",
            exit_code=ExitCode.ENGINE,
            fix=fix,
        )
    ours = install.find(releases.release(plan.engine.release), dirs().engines)
    if ours is not None and ours.python == Path(python):
        install.require_whole(ours)


def _is_profile_too(name: str) -> str:
    try:
        find_profile(name, profiles_dir(dirs()))
    except QlaunchError:
        return ""
    return "; --from-profile takes the profile of that name instead"


def _require_same_profile(name: str, came_from: Origin) -> None:
    why = changed(came_from)
    if why is None:
        return
    raise QlaunchError(
        f"service {name!r} was started from profile {came_from.profile} as it was before: {why}",
        code="profile_changed",
        exit_code=ExitCode.CONFLICT,
        fix=f"qlaunch restart {name} --reread, and export then; or export {came_from.profile} "
        "--from-profile, with the options it needs",
    )


def changed(came_from: Origin) -> str | None:
    """How the profile differs from the one that a plan was made from; None where it does not."""
    try:
        now = load_profile(came_from.profile, profiles_dir(dirs()))
    except QlaunchError as error:
        return error.message
    if origin.digest(now) == came_from.profile_digest:
        return None
    return f"{now.path} changed since"


def _ports(name: str, came_from: Origin) -> Mapping[str, Any]:
    """The ports that a running service has, where it was asked to take free ones."""
    asked = {key: came_from.settings.get(key) for key in ("port", "metrics_port")}
    wanted = [key for key, value in asked.items() if value == 0]
    state = control.status(name) if wanted else None
    if state is None or state.state not in UP:
        return {}
    urls = {"port": state.endpoint, "metrics_port": state.metrics and state.metrics.url}
    found = {key: urlsplit(str(urls[key])).port for key in wanted if urls[key]}
    return {key: port for key, port in found.items() if port}
