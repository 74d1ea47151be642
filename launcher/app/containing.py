"""What of a plan goes into a container: its model, its profile, its environment."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from launcher import __version__
from launcher.app.prepare import profiles_dir
from launcher.config.loading import LoadedProfile, load_profile, shipped_dir
from launcher.config.service_cache import ServiceCache
from launcher.config.size import parse_size
from launcher.documents.plan import Plan
from launcher.errors import QlaunchError
from launcher.fleet import container, start_command
from launcher.fleet.container import Contained
from launcher.model.cards import shipped_cards
from launcher.network import redis_address
from launcher.network.listening import is_loopback
from launcher.paths import dirs

_HARDWARE = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_", "GOMP_CPU_AFFINITY")


def contained(plan: Plan, image: str | None, *, metrics: bool = False) -> Contained:
    """The plan as it runs in a container.

    Args:
        plan: what runs.
        image: the image's name; None: the Containerfile's.
        metrics: whether somebody reads the supervisor's metrics, also where the plan has no port
            for them.

    Raises:
        QlaunchError: `export_impossible` (exit 2) for an engine of the user's own, for a model
            whose files are links, and where nothing tells what the plan was made from.
    """
    came_from = start_command.origin(plan)
    if "engine_python" in came_from.settings:
        raise QlaunchError(
            f"service {plan.service!r} runs in an environment of your own "
            f"({came_from.settings['engine_python']}), which no image has",
            code="export_impossible",
            fix="start it on a release (qlaunch engine list), or export a systemd unit",
        )
    profile = load_profile(came_from.profile, profiles_dir(dirs()))
    model, source, target, baked = _model(plan, str(came_from.settings["model"]))
    environ, left = _environment(came_from.environ)
    notes = [
        f"{name} is not carried ({why})" for name, why in {**came_from.withheld, **left}.items()
    ]
    notes += _cache_notes(plan)
    if plan.expectation.card is not None and not baked:
        notes.append("the model card does not go along: prompts of clients follow the files")
    return Contained(
        plan=plan,
        image=image or f"qlaunch-{plan.engine.release}:{__version__}",
        model=model,
        model_source=source,
        model_target=target,
        baked=baked,
        profile=profile.name,
        profiles=_profiles(profile),
        environ=environ,
        notes=tuple(notes),
        metrics_port=plan.metrics_port or (_metrics_port(plan) if metrics else None),
        least_bytes=parse_size(least) if (least := profile.profile.hardware.min_ram) else 0,
    )


def _metrics_port(plan: Plan) -> int:
    usual = container.METRICS_PORT
    return usual if plan.port != usual else usual + 1


def _cache_notes(plan: Plan) -> list[str]:
    """What a cache means inside a container, in sentences.

    Raises:
        QlaunchError: `export_impossible` (exit 2): it needs files of this machine.
    """
    cache = plan.cache
    if cache is None:
        return []
    keys = ("password_file", "sentinel_password_file", "key_file")
    files: dict[str, str | None] = {key: getattr(cache, key) for key in keys}
    if cache.backend == "embedded":
        files["url"] = cache.url
    for key, path in files.items():
        if path is not None:
            raise QlaunchError(
                f"the cache's {key} is {path}, a file of this machine, which no container has",
                code="export_impossible",
                fix=f"leave `cache.{key}` out of the profile, or export a systemd unit",
            )
    if cache.backend == "embedded":
        return ["the cache is kept with the container's work folder, and goes with it"]
    if any(map(is_loopback, _cache_hosts(cache))):
        return [f"the cache {cache.place} is asked inside the container or its pod"]
    return []


def _cache_hosts(cache: ServiceCache) -> list[str]:
    if cache.backend == "redis":
        return [host for host, _port in redis_address.parse(cache.url or "").hosts]
    return [urlsplit(cache.url or "").hostname or ""]


def _model(plan: Plan, given: str) -> tuple[str, str, str, bool]:
    """What `--model` says inside, the folder here, the folder there, whether images may have it."""
    path = Path(plan.model_path)
    card = plan.expectation.card
    shipped = card is None or Path(card.file).is_relative_to(shipped_cards())
    if shipped and path.parent == dirs().models:
        return given, str(path), f"/opt/qlaunch/models/{path.name}", True
    if shipped and path.parent.name == "snapshots" and path.parents[1].name.startswith("models--"):
        repository = path.parents[1]
        hub = container.ENVIRONMENT["HF_HUB_CACHE"]
        return given, str(repository), f"{hub}/{repository.name}", True
    links = [one for one in path.rglob("*") if one.is_symlink()]
    if any(not link.resolve().is_relative_to(path.resolve()) for link in links):
        raise QlaunchError(
            f"{path} holds links to files elsewhere, which a container does not see",
            code="export_impossible",
            fix=f"copy it with its files (cp -rL {path} …) and start the service from there",
        )
    target = f"{container.MODELS}/{plan.model_name}"
    return target, str(path.resolve()), target, False


def _profiles(profile: LoadedProfile) -> dict[str, tuple[str, str]]:
    """Files of the profile and its parents that no image has.

    Raises:
        QlaunchError: `export_impossible` (exit 2): two of them have one name, and a container has
            one folder for all.
    """
    files = [profile.path.absolute(), *(parent.absolute() for parent in profile.parents)]
    own = [file for file in files if not file.is_relative_to(shipped_dir())]
    first: dict[str, Path] = {}
    for file in own:
        if (other := first.setdefault(file.stem, file)) != file:
            raise QlaunchError(
                f"{other} and {file}, which it extends, are profiles of one name, and a container "
                "has one folder for all profiles",
                code="export_impossible",
                fix="give one of them another name, or export a systemd unit",
            )
    return {file.name: (str(file), file.read_text(encoding="utf-8")) for file in own}


def _environment(environ: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """What means the same inside; and what does not, with the reason."""
    kept: dict[str, str] = {}
    left: dict[str, str] = {}
    for name, value in environ.items():
        if start_command.is_folder(name):
            continue
        if name.startswith(_HARDWARE):
            left[name] = "the container's runtime chooses devices"
        elif os.sep in value:
            left[name] = "a path of this machine"
        else:
            kept[name] = value
    return kept, left
