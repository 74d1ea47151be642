"""From what the user asked for to a plan: load, check the hardware, get engine and model, resolve.

Cheap refusals come first: a profile that cannot run here is refused before anything is fetched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from launcher.app import candidates, known_engine, origin, usable_here
from launcher.app.best_profile import best_profile, idle_gpu
from launcher.app.known_model import Absent, Fetching, KnownModel, known_model
from launcher.app.profile_flags import check_releases
from launcher.app.secret_files import require_secrets
from launcher.app.subject import given_once, subject
from launcher.config.loading import SUFFIXES, LoadedProfile, load_profile
from launcher.config.profile import Profile
from launcher.config.settings import (
    Resolved,
    UserConfig,
    at_its_place,
    for_release,
    is_offline,
    load_user_config,
    resolve,
)
from launcher.config.size import parse_card_memory
from launcher.documents.plan import Plan
from launcher.engine.options import flags as flag_tables
from launcher.engine.options import own_options
from launcher.engine.release import Engine
from launcher.errors import ExitCode, QlaunchError
from launcher.hardware.cards import hypothetical
from launcher.hardware.detect import detect
from launcher.hardware.inventory import Hardware
from launcher.hardware.visible import shown_by
from launcher.linux import limits
from launcher.model.checkpoint import Checkpoint, ModelCard
from launcher.paths import Dirs, dirs
from launcher.plan import caching, engine_and_card
from launcher.plan.calibration import Observed
from launcher.plan.inputs import Inputs
from launcher.plan.request_checks import check_request
from launcher.plan.resolve import make_plan
from launcher.record.runs import list_runs, load_run
from launcher.verify.thresholds import parity_min

_LATEST_RUNS = 40
"""Run records read for the host's own memory figures: a few kilobytes each."""


@dataclass(frozen=True)
class Returned:
    """Memory of a service at work, which is not free now. Bytes."""

    ram_bytes: int
    gpu_bytes: int


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
    foresee: bool = False
    """Fetch nothing, and plan what is missing by what is known of it: for what only prints."""
    gpu: str | None = None
    """A card as people name it: plan for a machine with one, instead of this machine."""
    vram: str | None = None
    """Memory of that card as it is sold, such as `4GB`."""
    driver: str | None = None
    """Version of that machine's NVIDIA driver."""
    environ: Mapping[str, str] | None = None
    """Where `QLAUNCH_*` settings are looked up; None is this process's own environment."""
    as_set: bool = False
    """Plan even one engine as a set of replicas, which can be given more."""
    returned: Returned | None = None
    """What the service at work holds, and gives back before or while the planned one starts."""
    expect_fingerprint: str | None = None
    """Fingerprint that the checkpoint must have, or its first 12 digits or more."""
    secrets: bool = True
    """Whether the files of keys and passwords that it names must be on this machine."""

    @property
    def elsewhere(self) -> bool:
        """Whether another machine than this is meant."""
        return (self.gpu, self.vram, self.driver) != (None, None, None)


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
    absent: tuple[Absent, ...] = ()
    """What a start would fetch first; only where `foresee` was asked for."""
    notes: tuple[str, ...] = ()
    """How the request was understood, where that is not plain, and what has no effect."""
    fitting: Mapping[str, int] = field(default_factory=dict)
    """Engine options without which the model that was named would not fit this machine."""


def prepare(request: Request, progress: Callable[[str], None]) -> Prepared:
    """Make everything ready that a plan needs, and make the plan.

    Raises:
        QlaunchError: each step's own, with its exit code.
    """
    where = dirs()
    hardware = _with_returned(
        asked_machine(request.gpu, request.vram, request.driver), request.returned
    )
    chosen = _chosen(request, hardware, where, progress)
    request, name = chosen.request, chosen.profile
    profile, hardware = _profile(name, where, hardware)
    config = load_user_config(where.config)
    asked = settings = resolve(
        profile, request.given, _environ(request), config, name=chosen.service
    )
    brought = known_engine.brought(settings, profile)
    choice = _choose(settings, profile, hardware, where, brought)
    settings = for_release(settings, profile, choice.release.name)
    _check_before_fetching(settings, profile.profile, request, choice, brought)
    fetching = _fetching(request, config, progress)
    engine = brought or known_engine.known_engine(
        settings, choice.release, where, fetching, elsewhere=request.elsewhere
    )
    engine = own_options.with_options(engine, where.cache, progress)
    model = chosen.model or _model(settings, profile, where, fetching)
    if model.absent is None:
        origin.require_fingerprint(model.checkpoint, request.expect_fingerprint)
    plan = make_plan(
        Inputs(
            settings=settings,
            profile_name=profile.name,
            profile=profile.profile,
            hardware=hardware,
            engine=engine,
            checkpoint=model.checkpoint,
            card=model.card,
            extra=request.extra,
            parity_min=parity_min,
            reference_cache=str(where.references),
            as_set=request.as_set,
            observed=_observed(where),
            choice=choice,
        )
    )
    missing = None if request.elsewhere else known_engine.absent(engine, settings, where)
    prepared = Prepared(
        plan,
        profile,
        settings,
        hardware,
        engine,
        model.checkpoint,
        model.card,
        absent=tuple(each for each in (missing, model.absent) if each and request.foresee),
        notes=(*chosen.notes, *caching.notes(settings.cache, settings.replicas)),
        fitting=chosen.fitting,
    )
    return prepared if request.elsewhere else _for_here(prepared, asked, request.extra, name)


def _check_before_fetching(
    settings: Resolved,
    profile: Profile,
    request: Request,
    choice: engine_and_card.Choice,
    brought: Engine | None,
) -> None:
    check_request(settings, request.extra)
    if request.secrets and not request.elsewhere:
        _require_secrets(settings)
        usable_here.require_addresses(settings)
        usable_here.require_cache_place(settings)
        usable_here.require_topology(settings, profile, choice.release.device, os.environ)
    if request.extra and brought is None:
        flag_tables.require(request.extra, choice.release.version)


def _require_secrets(settings: Resolved) -> None:
    """The files of keys and passwords, a refusal with the place that names the file."""
    try:
        require_secrets(settings.api_key_file, settings.cache)
    except QlaunchError as error:
        key = "api_key_file" if error.code == "api_key_unusable" else "cache"
        raise at_its_place(error, settings, key) from error


def _profile(name: str, where: Dirs, hardware: Hardware) -> tuple[LoadedProfile, Hardware]:
    """The profile, its options for engine releases that there are, and the machine as it shows it
    to an engine."""
    loaded = load_profile(name, profiles_dir(where))
    check_releases(loaded)
    return loaded, shown_by(hardware, loaded.profile.env)


def _with_returned(hardware: Hardware, returned: Returned | None) -> Hardware:
    """The machine as it is once a service gives back what it holds."""
    if returned is None:
        return hardware
    replaced = msgspec.structs.replace
    room = hardware.memory
    free = min(room.usable_bytes, room.available_bytes + returned.ram_bytes)
    gpus = tuple(
        gpu
        if gpu.memory_free_bytes is None
        else replaced(
            gpu,
            memory_free_bytes=min(
                gpu.memory_total_bytes, gpu.memory_free_bytes + returned.gpu_bytes
            ),
        )
        for gpu in hardware.gpus
    )
    return replaced(hardware, memory=replaced(room, available_bytes=free), gpus=gpus)


def _for_here(prepared: Prepared, asked: Resolved, extra: tuple[str, ...], name: str) -> Prepared:
    """The plan within what this machine lets a process have, with what it was made from."""
    came_from = origin.of(
        prepared.profile,
        asked,
        prepared.settings,
        prepared.checkpoint,
        prepared.card,
        extra,
        by_path=name.endswith(SUFFIXES),
    )
    plan = msgspec.structs.replace(_within_limits(prepared.plan), origin=came_from)
    return replace(prepared, plan=plan)


@dataclass(frozen=True)
class _Chosen:
    """A request that names a profile, and what was found out on the way."""

    request: Request
    profile: str
    service: str | None = None
    """Name of the service where nobody gives one; None: the profile's."""
    model: KnownModel | None = None
    notes: tuple[str, ...] = ()
    fitting: Mapping[str, int] = field(default_factory=dict)


def _chosen(
    request: Request, hardware: Hardware, where: Dirs, progress: Callable[[str], None]
) -> _Chosen:
    """The profile that is named, or the best for this machine: at all, or with the model named."""
    if request.profile is None:
        name = default_profile(hardware, where, request, progress)
        return _Chosen(request, name, notes=idle_gpu(name, hardware, where, progress))
    found = subject(request.profile, profiles_dir(where))
    given_once(found, request.given.get("model"), request.profile)
    if found.model is None:
        if found.note:
            progress(found.note)
        notes = (found.note,) if found.note else ()
        return _Chosen(request, found.profile or request.profile, notes=notes)
    if request.elsewhere:
        engine_and_card.require_kernels(hardware)
    config = load_user_config(where.config)
    model = known_model(found.model, where, _fetching(request, config, progress))
    best = best_profile(
        found.model,
        model.checkpoint,
        model.card,
        hardware=hardware,
        where=where,
        observed=_observed(where),
    )
    progress(best.words)
    own = request.given.get("flags")
    flags = {**best.flags, **(own if isinstance(own, Mapping) else {})}
    given = {**request.given, "model": found.model, **({"flags": flags} if flags else {})}
    return _Chosen(
        replace(request, given=given),
        best.profile,
        found.service,
        model,
        notes=(best.words, *idle_gpu(best.profile, hardware, where, progress)),
        fitting=best.flags,
    )


def _environ(request: Request) -> Mapping[str, str]:
    return os.environ if request.environ is None else request.environ


def _fetching(request: Request, config: UserConfig, progress: Callable[[str], None]) -> Fetching:
    return Fetching(
        fetch=request.fetch,
        foresee=request.foresee or request.elsewhere,
        offline=is_offline(request.given, _environ(request), config),
        progress=progress,
    )


def _within_limits(plan: Plan) -> Plan:
    """`plan`, which does not fit where this process's own limits (`ulimit`) are too low for it."""
    why = limits.too_low(plan.predicted.ram_bytes)
    if why is None:
        return plan
    return msgspec.structs.replace(plan, fits=False, misfit=why, reasons=(why, *plan.reasons))


def _observed(where: Dirs) -> tuple[Observed, ...]:
    """This host's latest verified runs that measured their memory as PSS."""
    found: list[Observed] = []
    for summary in list_runs(where.runs)[:_LATEST_RUNS]:
        if summary.problem is not None:
            continue
        run = load_run(where.runs, summary.run)
        peak = run.verified_peak
        if run.plan and (run.plan.part_of or run.plan.replica_set):
            continue  # replicas share pages with each other: one alone takes more
        if run.plan and peak and peak.ram_peak_bytes and peak.method.get("ram") == "pss":
            found.append(
                Observed(
                    plan=run.plan,
                    peak_bytes=peak.ram_peak_bytes,
                    began=run.began,
                    ready_s=None if run.forked else run.timings.ready_s,
                )
            )
    return tuple(found)


def require_fit(prepared: Prepared) -> None:
    """Refuse a plan that does not fit this machine's memory, or whose cache can never work here.

    Raises:
        QlaunchError: `does_not_fit` (exit 4) with the one knob that would make it fit;
            `extra_missing`, `bad_cache` (exit 2), `cache_key` (exit 1).
    """
    plan = prepared.plan
    if plan.cache is not None:
        from launcher.app.caching import require_cache

        require_cache(plan)
    if plan.fits:
        return
    if (why := limits.too_low(plan.predicted.ram_bytes)) is not None:
        raise QlaunchError(
            f"{plan.profile} with {plan.model_name} cannot run here: {why}",
            code="limit_too_low",
            exit_code=ExitCode.DOES_NOT_FIT,
            fix="raise that limit: ulimit, LimitNOFILE=, LimitAS=, LimitCPU= and LimitFSIZE= in "
            "systemd, --ulimit in a container",
        )
    knob = plan.remedy
    place = "" if knob and knob.startswith("--replicas") else ": give it after `--`"
    raise QlaunchError(
        f"{plan.profile} with {plan.model_name} does not fit this machine: {plan.misfit}",
        code="does_not_fit",
        exit_code=ExitCode.DOES_NOT_FIT,
        fix=f"{knob}{place}" if knob else "choose a smaller model or profile",
    )


def profiles_dir(where: Dirs) -> Path:
    """Folder of the user's own profiles."""
    return where.config / "profiles"


def default_profile(
    hardware: Hardware, where: Dirs, request: Request, progress: Callable[[str], None]
) -> str:
    """The recommended profile, or the next whose model qlaunch can get by itself.

    Raises:
        QlaunchError: `does_not_fit` (exit 4) where nothing runs here.
    """
    if request.elsewhere:
        engine_and_card.require_kernels(hardware)
    found = candidates.recommendation(candidates.advise(hardware, where, _observed(where)), where)
    if found.needs is None or request.given.get("model"):
        return found.profile
    others = [a.profile for a in found.alternatives if a.needs is None and a.change is None]
    if not others:
        return found.profile
    progress(f"{found.profile} would suit this machine best, but needs {found.needs}")
    return others[0]


def what_runs_here(hardware: Hardware, where: Dirs) -> tuple[str, ...]:
    """Names of the profiles this hardware can run, best first."""
    judged = candidates.advise(hardware, where, _observed(where)).judged
    return tuple(j.verdict.profile for j in judged if j.verdict.bucket == "runs")


def asked_machine(gpu: str | None, vram: str | None, driver: str | None) -> Hardware:
    """This machine, or the one that the options describe.

    Raises:
        QlaunchError: `gpu_unknown`, `size_invalid` or `usage` (exit 2).
    """
    if gpu is None and vram is None and driver is None:
        return detect()
    memory = None if vram is None else parse_card_memory(vram)
    return hypothetical(gpu, memory, detect(), driver=driver)


def _choose(
    settings: Resolved,
    profile: LoadedProfile,
    hardware: Hardware,
    where: Dirs,
    brought: Engine | None,
) -> engine_and_card.Choice:
    """Engine release and card, before anything is fetched.

    Raises:
        QlaunchError: `does_not_fit` (exit 4), naming what would run here.
    """
    wanted = brought.release.name if brought else settings.engine
    host = candidates.world_of(hardware, where).host
    try:
        return engine_and_card.choose(wanted, profile.profile.hardware, hardware, host)
    except QlaunchError as error:
        if error.code != "does_not_fit":
            raise at_its_place(error, settings, "engine") from error
        others = what_runs_here(hardware, where)
        machine = "such a machine" if hardware.assumed else "this machine"
        raise QlaunchError(
            f"profile {profile.name} cannot run on {machine}: {error.message}",
            code="does_not_fit",
            exit_code=ExitCode.DOES_NOT_FIT,
            fix=f"what runs here: {', '.join(others)}" if others else None,
        ) from error


def _model(
    settings: Resolved,
    profile: LoadedProfile,
    where: Dirs,
    fetching: Fetching,
) -> KnownModel:
    from_profile = settings.sources.get("model", "").startswith("profile")
    try:
        return known_model(
            settings.model,
            where,
            fetching,
            base=profile.file(("model",)).parent if from_profile else None,
            profile=profile.profile,
        )
    except QlaunchError as error:
        # A shipped profile's model is right where it stands; what fails is to fetch it.
        if error.exit_code is not ExitCode.USAGE or profile.shipped:
            raise
        raise at_its_place(error, settings, "model") from error
