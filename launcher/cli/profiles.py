"""`qlaunch profiles`: what can be brought up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Final

import click
import msgspec
from msgspec import UNSET, UnsetType

from launcher.app import candidates, own_profile, profile_flags
from launcher.app.prepare import profiles_dir
from launcher.cli import own_profiles, screen
from launcher.cli.base import all_option, group, wants_reasons
from launcher.cli.base import command as declare
from launcher.cli.result import Problem, Result, failure, table
from launcher.config.loading import LoadedProfile, ProfileRef, find_profile, load_profile
from launcher.config.profile import Profile
from launcher.config.settings import load_user_config, resolve
from launcher.errors import ExitCode, QlaunchError
from launcher.hardware.detect import detect
from launcher.paths import dirs
from launcher.plan.recommend import Judged
from launcher.plan.suitability import Bucket
from launcher.units import size

command = group("profiles", "List, show and validate profiles; make and edit your own.")


_BUCKETS: Final[dict[Bucket, str]] = {
    "runs": "runs here",
    "one_change": "runs with one change",
    "cannot": "cannot run here",
}


class ProfileRow(msgspec.Struct, frozen=True, kw_only=True):
    """One profile of `profiles list`; of one that cannot be read, only where it is and why."""

    name: str
    path: str
    shipped: bool
    title: str | None = None
    model: str | None = None
    engine: str | None = None
    measured: bool | None = None
    runs_here: bool = False
    reason: str | None
    bucket: Bucket = "cannot"
    change: str | None = None
    saves_bytes: int | None = None
    release: str | None = None


class ShownProfile(msgspec.Struct, frozen=True, kw_only=True):
    """`profiles show`."""

    name: str
    path: str
    shipped: bool
    extends: tuple[str, ...]
    profile: Profile
    resolved: dict[str, object] | UnsetType = UNSET
    """With `--resolved`: the settings, without `sources`."""
    sources: dict[str, str] | UnsetType = UNSET


class CheckedProfile(msgspec.Struct, frozen=True, kw_only=True):
    """One profile of `profiles validate`."""

    name: str
    path: str | None
    valid: bool
    flags_checked: bool = False
    """Whether the engine's options were looked at; those of an engine of one's own `plan` asks."""


@declare("profiles list")
@all_option()
def list_(everything: bool) -> Result:
    """List every profile: what runs on this machine, what would with one change, what cannot.

    With -v each that cannot run stands on a line of its own, with its model and the reason.
    """
    given = candidates.advise(detect(), dirs())
    broken = [_broken(ref) for ref in given.broken]
    found = [*(_entry(judged) for judged in given.judged), *broken]
    problems = [failure(ref.error).problems[0] for ref in given.broken if ref.error is not None]
    return Result(
        data={"profiles": found},
        lines=screen.share(
            list(_sections(found, reasons=wants_reasons())),
            everything=everything or wants_reasons(),
        ),
        status="partial" if problems else "ok",
        exit_code=ExitCode.PARTIAL if problems else ExitCode.OK,
        problems=problems,
    )


def _sections(found: list[ProfileRow], *, reasons: bool) -> Iterator[list[str]]:
    """A table for each bucket; what cannot run is grouped by why, unless each `reasons` is told."""
    for bucket, heading in _BUCKETS.items():
        entries = [entry for entry in found if entry.bucket == bucket]
        if bucket == "cannot" and entries and not reasons:
            yield [heading, *screen.by_reason((p.name, _note(p, True)) for p in entries)]
        elif entries:
            rows = [(f"  {p.name}", p.model, _note(p, reasons)) for p in entries]
            yield [heading, *table(("  PROFILE", "MODEL", ""), rows)]


def _note(entry: ProfileRow, reason: bool) -> str:
    if entry.change is None:
        return str(entry.reason or entry.title)
    change = f"with {entry.change} (saves {size(entry.saves_bytes)})"
    return f"{change}: {entry.reason}" if reason else change


def _entry(judged: Judged) -> ProfileRow:
    loaded, verdict = judged.candidate.profile, judged.verdict
    return ProfileRow(
        name=loaded.name,
        path=str(loaded.path),
        shipped=loaded.shipped,
        title=loaded.profile.title,
        model=loaded.profile.model,
        engine=loaded.profile.engine,
        measured=loaded.profile.measured,
        runs_here=verdict.bucket == "runs",
        reason=verdict.reason,
        bucket=verdict.bucket,
        change=verdict.change,
        saves_bytes=verdict.saves_bytes,
        release=verdict.release,
    )


def _broken(ref: ProfileRef) -> ProfileRow:
    why = ref.error.message if ref.error else "it cannot be read"
    return ProfileRow(name=ref.name, path=str(ref.path), shipped=ref.shipped, reason=why)


@declare("profiles show")
@click.argument("profile")
@click.option(
    "--resolved",
    is_flag=True,
    help="The profile merged with its parents: every value in force, and where it comes from.",
)
def show(profile: str, resolved: bool) -> Result:
    """Show PROFILE as it is written, or with --resolved as it would be used now."""
    where = dirs()
    loaded = load_profile(profile, profiles_dir(where))
    if not resolved:
        text = loaded.path.read_text("utf-8")
        note = (
            [] if loaded.profile.measured else ["# not measured: nobody has run this profile yet"]
        )
        return Result(
            data=_shown(loaded), lines=[*note, *text.rstrip().splitlines()], verbatim=True
        )
    settings = resolve(loaded, {}, os.environ, load_user_config(where.config))
    values = msgspec.to_builtins(settings)
    sources: dict[str, str] = values.pop("sources")
    flat = {key: value for key, value in values.items() if key not in {"flags", "cache"}}
    cache = {f"cache.{key}": each for key, each in (values["cache"] or {}).items()}
    flat |= {key: each for key, each in cache.items() if each is not None} or {"cache": None}
    flat |= {f"flags.{key}": value for key, value in values["flags"].items()}
    others = dict(_beside_settings(loaded, frozenset(values)))
    sources |= {key: place for key, (_value, place) in others.items()}
    flat |= {key: value for key, (value, _place) in others.items()}
    places = dict.fromkeys(cache, sources.get("cache", "default")) | sources
    rows = [(key, value, places.get(key, "default")) for key, value in flat.items()]
    return Result(
        data=msgspec.structs.replace(_shown(loaded), resolved=values, sources=sources),
        lines=table(("SETTING", "VALUE", "FROM"), rows),
    )


def _beside_settings(
    loaded: LoadedProfile, settings: frozenset[str]
) -> Iterator[tuple[str, tuple[Any, str]]]:
    """What the merged profile says beyond the settings, a mapping's values one by one: the dotted
    name, the value, and the file and line where it stands."""
    whole = msgspec.to_builtins(loaded.profile)
    for path in loaded.lines:
        if len(path) == 0 or path[0] in settings or any(isinstance(step, int) for step in path):
            continue
        value: Any = whole
        for step in path:
            value = value[step]
        if not isinstance(value, dict):
            place = f"profile {loaded.file(path)}:{loaded.lines[path]}"
            yield ".".join(map(str, path)), (value, place)


def _shown(loaded: LoadedProfile) -> ShownProfile:
    return ShownProfile(
        name=loaded.name,
        path=str(loaded.path),
        shipped=loaded.shipped,
        extends=tuple(map(str, loaded.parents)),
        profile=loaded.profile,
    )


@declare("profiles validate")
@click.argument("profiles", nargs=-1, required=True, metavar="PROFILE...")
def validate(profiles: tuple[str, ...]) -> Result:
    """Check profiles, by name or file, without starting anything.

    Options of the engine are checked against the releases that a profile may run on.
    """
    where = dirs()
    folder = profiles_dir(where)
    checked: list[CheckedProfile] = []
    problems: list[Problem] = []
    for name in profiles:
        try:
            ref = find_profile(name, folder)
            loaded = load_profile(name, folder)
            own_profile.check_names(loaded, folder)
            asked = profile_flags.check_flags(loaded, where, lambda _line: None)
            path = str(ref.path)
            checked.append(
                CheckedProfile(name=ref.name, path=path, valid=True, flags_checked=asked)
            )
        except QlaunchError as error:
            problems += failure(error).problems
            checked.append(CheckedProfile(name=name, path=None, valid=False))
    return Result(
        data={"profiles": checked},
        lines=[f"{c.name}: {_word(c)}" for c in checked],
        exit_code=ExitCode.USAGE if problems else ExitCode.OK,
        status="error" if problems else "ok",
        problems=problems,
    )


for _command, _name in (
    (list_, "list"),
    (show, "show"),
    (validate, "validate"),
    (own_profiles.new, "new"),
    (own_profiles.edit, "edit"),
    (own_profiles.path, "path"),
):
    command.add_command(_command, _name)


def _word(checked: CheckedProfile) -> str:
    if not checked.valid:
        return "not valid"
    if checked.flags_checked:
        return "valid"
    return "valid; options of an engine of your own are checked by `qlaunch plan`"
