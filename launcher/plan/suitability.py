"""Which profiles run on a machine, which would with one change, and which cannot. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

import msgspec

from launcher.config.loading import LoadedProfile
from launcher.config.settings import UserConfig, for_release, resolve
from launcher.documents.plan import Plan
from launcher.engine.release import Engine, Release
from launcher.engine.releases import Host
from launcher.errors import QlaunchError
from launcher.hardware.inventory import Hardware
from launcher.hardware.visible import shown_by
from launcher.model.checkpoint import Checkpoint, ModelCard
from launcher.plan.calibration import Observed
from launcher.plan.engine_and_card import Choice, choose
from launcher.plan.inputs import Inputs
from launcher.plan.resolve import make_plan

Bucket = Literal["runs", "one_change", "cannot"]

KNOBS: Final = ("max-total-tokens", "context-length")
"""Sizes that may be lowered, in the order to try."""
STEP: Final = 1024
"""Tokens between values that are tried: figures people can read."""
LEAST: Final = 2048
"""A few pages of text; less is no use."""


@dataclass(frozen=True)
class Candidate:
    """A profile, with what is known of its model."""

    profile: LoadedProfile
    card: ModelCard | None
    checkpoint: Checkpoint | None
    """None: nobody knows the model's sizes before it is here."""
    broken: str | None = None
    """Why the model's own folder cannot be served."""


@dataclass(frozen=True)
class World:
    """The machine, and what plans for it are made with."""

    hardware: Hardware
    host: Host
    engine: Callable[[Release], Engine]
    """A release as it is installed, or as it would be."""
    parity_min: Callable[[str], float]
    observed: tuple[Observed, ...] = ()
    """Memory of this host's own runs, for its predictions."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One profile on one machine."""

    profile: str
    bucket: Bucket
    reason: str | None = None
    """Why not as it stands; for `runs` what is not known, or None."""
    change: str | None = None
    """The one option that makes it run, such as `--max-total-tokens 8192`."""
    saves_bytes: int | None = None
    """Memory that the change saves."""
    release: str | None = None
    plan: Plan | None = None
    """What would run, with the change; None where it cannot, or where its sizes are not known."""


def judge(candidate: Candidate, world: World) -> Verdict:
    """Sort one profile, as it is written (no user's settings), into its bucket. Never raises."""
    loaded = candidate.profile
    try:
        world = replace(world, hardware=shown_by(world.hardware, loaded.profile.env))
        choice = choose(loaded.profile.engine, loaded.profile.hardware, world.hardware, world.host)
        why = world.host.why_not(choice.release)
        if why:
            return Verdict(profile=loaded.name, bucket="cannot", reason=why)
        if candidate.broken:
            return Verdict(profile=loaded.name, bucket="cannot", reason=candidate.broken)
        given = _inputs(candidate, world, choice)
        if given is None:
            return Verdict(
                profile=loaded.name,
                bucket="runs",
                release=choice.release.name,
                reason=f"its memory is not predicted: {loaded.profile.model} is not here yet",
            )
        plan = make_plan(given)
    except QlaunchError as error:
        return Verdict(profile=loaded.name, bucket="cannot", reason=error.message)
    if plan.fits:
        return Verdict(profile=loaded.name, bucket="runs", release=choice.release.name, plan=plan)
    return _with_one_change(given, plan)


def _inputs(candidate: Candidate, world: World, choice: Choice) -> Inputs | None:
    if candidate.checkpoint is None:
        return None
    loaded = candidate.profile
    settings = resolve(loaded, {}, {}, UserConfig())
    sources = dict.fromkeys(settings.sources, f"profile {loaded.name}")
    settings = msgspec.structs.replace(settings, sources=sources)
    return Inputs(
        settings=for_release(settings, loaded, choice.release.name),
        profile_name=loaded.name,
        profile=loaded.profile,
        hardware=world.hardware,
        engine=world.engine(choice.release),
        checkpoint=candidate.checkpoint,
        card=candidate.card,
        extra=(),
        parity_min=world.parity_min,
        reference_cache="",
        observed=world.observed,
        choice=choice,
    )


def _with_one_change(given: Inputs, plan: Plan) -> Verdict:
    """The profile with the largest value of one knob that fits; `cannot` where none does."""
    name, why = given.profile_name, plan.misfit or ""
    for knob in KNOBS:
        now = given.settings.flags.get(knob)
        if not isinstance(now, int) or now <= LEAST:
            continue
        found = _largest(given, knob, now)
        if found is None:
            continue
        value, smaller = found
        return Verdict(
            profile=name,
            bucket="one_change",
            reason=why,
            change=f"--{knob} {value}",
            saves_bytes=_bytes(plan) - _bytes(smaller),
            release=plan.engine.release,
            plan=smaller,
        )
    return Verdict(profile=name, bucket="cannot", reason=why, release=plan.engine.release)


def _largest(given: Inputs, knob: str, now: int) -> tuple[int, Plan] | None:
    """The largest value of `knob` below `now` that fits, with its plan; None where none does."""
    low, high, best = LEAST // STEP, (now - 1) // STEP, None
    while low <= high:
        middle = (low + high + 1) // 2
        flags = given.settings.flags | {knob: middle * STEP}
        settings = msgspec.structs.replace(given.settings, flags=flags)
        plan = make_plan(replace(given, settings=settings))
        if plan.fits:
            best, low = (middle * STEP, plan), middle + 1
        else:
            high = middle - 1
    return best


def _bytes(plan: Plan) -> int:
    """Predicted memory where it is scarce, the card's, else RAM: with the largest batch, which may
    be all that a smaller size saves, and decides whether a plan fits."""
    predicted = plan.predicted
    return predicted.gpu_full_bytes or predicted.ram_full_bytes or 0
