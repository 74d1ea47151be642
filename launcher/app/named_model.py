"""The service that serves a model which is named as `up` takes it: `./folder`, `hf:ORG/NAME`."""

from __future__ import annotations

from pathlib import Path

from launcher.app.subject import Subject, subject
from launcher.config.loading import SUFFIXES
from launcher.documents.plan import Plan
from launcher.documents.service_state import UP
from launcher.errors import QlaunchError
from launcher.service import store


def names_service_or_start(word: str, profiles: Path) -> bool:
    """Whether `word` names a service of this home, or what `up` could start: a profile or a model.

    A profile with a fault in it, and a model's source with one, count: whoever starts them says
    what is wrong. A path where no folder is does not.
    """
    return _is_service(word) or names_start(word, profiles)


def names_start(word: str, profiles: Path) -> bool:
    """Whether `word` names what `up` could start: a profile or a model; faulty ones count."""
    try:
        subject(word, profiles)
    except QlaunchError as error:
        return error.code not in ("profile_unknown", "model_not_found")
    return not word.endswith(SUFFIXES) or Path(word).exists()


def model_of(word: str, profiles: Path) -> Subject | None:
    """The model that `word` names; None where it names a profile, or nothing."""
    try:
        named = subject(word, profiles)
    except QlaunchError:
        return None
    return named if named.model is not None else None


def meant(word: str, profiles: Path) -> str:
    """`word`, where it is a service's name; else the service that serves the model it names, where
    there is one; else `word`."""
    return word if _is_service(word) else service_of(word, profiles) or word


def service_of(word: str, profiles: Path) -> str | None:
    """Name of the service that serves the model `word`: one that is up before one that is over.

    None where `word` names no model, or nothing serves it.
    """
    named = model_of(word, profiles)
    if named is None or named.model is None:
        return None
    services = [name for name in store.list_services() if _serves(name, named.model)]
    # The one that `up` makes of the word before those of another name.
    services.sort(key=lambda name: (not _is_up(name), name != named.service))
    return services[0] if services else None


def _is_service(word: str) -> bool:
    try:
        return store.folder(word).plan.exists()
    except QlaunchError:
        return False


def _serves(service: str, model: str) -> bool:
    plan = _plan(service)
    if plan is None or plan.part_of is not None:
        return False
    return model == plan.model_path or (
        plan.origin is not None and model == plan.origin.settings.get("model")
    )


def _plan(service: str) -> Plan | None:
    try:
        return store.read_plan(store.folder(service))
    except QlaunchError:
        return None


def _is_up(service: str) -> bool:
    state = store.read_state(service)
    return state is not None and state.state in UP
