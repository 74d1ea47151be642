"""From what the user asked for to a plan: load, check the hardware, get engine and model, resolve.

Cheap refusals come first: a profile that cannot run here is refused before anything is fetched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.engine import catalogue, install, parser_check, probe
from launcher.engine import flags as flag_tables
from launcher.engine.types import Engine, Release
from launcher.errors import ExitCode, QlaunchError
from launcher.hardware.detect import detect
from launcher.hardware.types import Hardware
from launcher.model.cards import resolve_model
from launcher.model.fetch import locate, obtain
from launcher.model.inspect import inspect
from launcher.model.types import Checkpoint, ModelCard
from launcher.paths import Dirs, dirs
from launcher.plan.calibration import Observed
from launcher.plan.fit import require_hardware, why_not_on
from launcher.plan.resolve import Inputs, check_request, make_plan
from launcher.plan.types import Plan
from launcher.profile.load import LoadedProfile, list_profiles, load_profile
from launcher.profile.settings import Resolved, load_user_config, resolve
from launcher.record.runs import list_runs, load_run
from launcher.verify.thresholds import parity_min

_LATEST_RUNS = 40
"""Run records read for the host's own memory figures: a few kilobytes each."""


@dataclass(frozen=True)
class Request:
    """What a command was asked to bring up."""

    profile: str | None
    """Name or path; None takes the best for this hardware."""
    given: Mapping[str, object | None]
    """Settings from the command line, by setting name."""
    extra: tuple[str, ...] = ()
    """Engine options after `--`."""
    fetch: bool = True
    """Install the engine and fetch the model where they are missing."""


@dataclass(frozen=True)
class Prepared:
    """A plan, and what it was made from."""

    plan: Plan
    profile: LoadedProfile
    settings: Resolved
    hardware: Hardware
    engine: Engine
    checkpoint: Checkpoint
    card: ModelCard | None


def prepare(request: Request, progress: Callable[[str], None]) -> Prepared:
    """Make everything ready that a plan needs, and make the plan.

    Raises:
        QlaunchError: each step's own, with its exit code.
    """
    where = dirs()
    hardware = detect()
    profile = load_profile(request.profile or default_profile(hardware, where), profiles_dir(where))
    settings = resolve(profile, request.given, os.environ, load_user_config(where.config))
    release = catalogue.release(settings.engine)
    require_hardware(
        profile.name, profile.profile.hardware, release, hardware, what_runs_here(hardware, where)
    )
    check_request(settings, request.extra)
    if request.extra and settings.engine_python is None:
        flag_tables.require(request.extra, release.version)
    engine = _engine(settings, release, where, request.fetch, progress)
    engine = parser_check.with_options(engine, where.cache, progress)
    checkpoint, card = _model(settings, profile, where, request.fetch, progress)
    plan = make_plan(
        Inputs(
            settings=settings,
            profile_name=profile.name,
            profile=profile.profile,
            hardware=hardware,
            engine=engine,
            checkpoint=checkpoint,
            card=card,
            extra=request.extra,
            parity_min=parity_min,
            reference_cache=str(where.references),
            observed=_observed(where),
        )
    )
    return Prepared(plan, profile, settings, hardware, engine, checkpoint, card)


def _observed(where: Dirs) -> tuple[Observed, ...]:
    """This host's latest verified runs that measured their memory as PSS."""
    found: list[Observed] = []
    for summary in list_runs(where.runs)[:_LATEST_RUNS]:
        if summary.problem is not None:
            continue
        run = load_run(where.runs, summary.run)
        peak = run.verified_peak
        if peak and peak.ram_peak_bytes and peak.method.get("ram") == "pss":
            found.append(Observed(plan=run.plan, peak_bytes=peak.ram_peak_bytes, began=run.began))
    return tuple(found)


def require_fit(prepared: Prepared) -> None:
    """Refuse a plan that does not fit this machine's memory.

    Raises:
        QlaunchError: `does_not_fit` (exit 4) with the one knob that would make it fit.
    """
    plan = prepared.plan
    if plan.fits:
        return
    knob = plan.reasons[1] if len(plan.reasons) > 1 and plan.reasons[1].startswith("--") else None
    raise QlaunchError(
        f"{plan.profile} with {plan.model_name} does not fit this machine: {plan.reasons[0]}",
        code="does_not_fit",
        exit_code=ExitCode.DOES_NOT_FIT,
        fix=f"{knob}: give it after `--`" if knob else "choose a smaller model or profile",
    )


def profiles_dir(where: Dirs) -> Path:
    """Folder of the user's own profiles."""
    return where.config / "profiles"


def default_profile(hardware: Hardware, where: Dirs) -> str:
    """The best profile for this hardware: one for its GPU, else the small model on the CPU.

    Raises:
        QlaunchError: `does_not_fit` (exit 4) where nothing runs here.
    """
    names = what_runs_here(hardware, where)
    if not names:
        raise QlaunchError(
            "none of the profiles runs on this machine",
            code="does_not_fit",
            exit_code=ExitCode.DOES_NOT_FIT,
            fix="see why: qlaunch profiles list",
        )
    return names[0]


def what_runs_here(hardware: Hardware, where: Dirs) -> tuple[str, ...]:
    """Names of the profiles this hardware can run: a GPU's own first, then the smaller model."""
    found: list[tuple[bool, bool, str]] = []
    for ref in list_profiles(profiles_dir(where)):
        if ref.profile is None:
            continue
        release = catalogue.releases().get(ref.profile.engine)
        if release and why_not_on(ref.profile.hardware, release, hardware) is None:
            on_cpu = ref.profile.hardware.device == "cpu"
            # Without a GPU the article's advice is the smaller model, so the default stays small.
            found.append((on_cpu, not ref.name.endswith("minilm"), ref.name))
    return tuple(name for _cpu, _large, name in sorted(found))


def _engine(
    settings: Resolved,
    release: Release,
    where: Dirs,
    fetch: bool,
    progress: Callable[[str], None],
) -> Engine:
    if settings.engine_python is not None:
        return probe.own_engine(Path(settings.engine_python), device=release.device)
    found = install.find(release, where.engines)
    if found is not None:
        return found
    if not fetch or settings.offline:
        raise QlaunchError(
            f"engine {release.name} (SGLang {release.version}) is not installed",
            code="engine_missing",
            exit_code=ExitCode.ENGINE,
            fix=f"qlaunch engine install {release.name}, or name your own with --engine-python",
        )
    progress(
        f"engine {release.name} is not installed yet: installing it once "
        f"({release.disk_bytes / 1e9:.1f} GB)"
    )
    return install.install(release, where.engines, progress=progress)


def _model(
    settings: Resolved,
    profile: LoadedProfile,
    where: Dirs,
    fetch: bool,
    progress: Callable[[str], None],
) -> tuple[Checkpoint, ModelCard | None]:
    from_profile = settings.sources.get("model", "").startswith("profile")
    card, sources = resolve_model(
        settings.model,
        profiles_dir(where) / "models",
        base=profile.path.parent if from_profile else None,
    )
    here = locate(sources, models_dir=where.models)
    if here is None:
        if not fetch:
            raise QlaunchError(
                f"model {settings.model} is not on this machine",
                code="model_not_found",
                exit_code=ExitCode.USAGE,
                fix=f"qlaunch model pull {settings.model}",
            )
        progress(f"fetching model {settings.model}")
    path = here or obtain(
        sources,
        models_dir=where.models,
        card=card,
        offline=settings.offline,
        progress=progress,
    )
    return inspect(path), card
