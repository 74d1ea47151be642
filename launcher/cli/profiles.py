"""`qlaunch profiles`: what can be brought up."""

from __future__ import annotations

import os
from typing import Any

import click
import msgspec

from launcher.cli.base import command as declare
from launcher.cli.base import group
from launcher.cli.prepare import profiles_dir
from launcher.cli.result import Problem, Result, failure, table
from launcher.engine import catalogue
from launcher.errors import ExitCode, QlaunchError
from launcher.hardware.detect import detect
from launcher.hardware.types import Hardware
from launcher.paths import dirs
from launcher.plan.fit import why_not_on
from launcher.profile.load import (
    LoadedProfile,
    ProfileRef,
    find_profile,
    list_profiles,
    load_profile,
)
from launcher.profile.settings import load_user_config, resolve

command = group("profiles", "List, show and validate profiles.")


@declare("profiles list")
def list_() -> Result:
    """List every profile, and whether it runs on this machine."""
    hardware = detect()
    refs = list_profiles(profiles_dir(dirs()))
    found = [_entry(ref, hardware) for ref in refs]
    rows = [(p["name"], "yes" if p["runs_here"] else "no", p["model"], p["title"]) for p in found]
    lines = table(("PROFILE", "RUNS HERE", "MODEL", "TITLE"), rows)
    lines += [f"{p['name']}: {p['reason']}" for p in found if p["reason"]]
    problems = [failure(ref.error).problems[0] for ref in refs if ref.error is not None]
    return Result(
        data={"profiles": found},
        lines=lines,
        status="partial" if problems else "ok",
        exit_code=ExitCode.PARTIAL if problems else ExitCode.OK,
        problems=problems,
    )


def _entry(ref: ProfileRef, hardware: Hardware) -> dict[str, Any]:
    profile = ref.profile
    base: dict[str, Any] = {"name": ref.name, "path": str(ref.path), "shipped": ref.shipped}
    if profile is None:
        reason = ref.error.message if ref.error else "it cannot be read"
        unknown = dict.fromkeys(("title", "model", "engine", "measured"))
        return base | unknown | {"runs_here": False, "reason": reason}
    try:
        release = catalogue.release(profile.engine)
        why = why_not_on(profile.hardware, release, hardware)
    except QlaunchError as error:
        why = error.message
    return base | {
        "title": profile.title,
        "model": profile.model,
        "engine": profile.engine,
        "measured": profile.measured,
        "runs_here": why is None,
        "reason": why,
    }


@declare("profiles show")
@click.argument("profile")
@click.option("--resolved", is_flag=True, help="Every setting in force, and where it comes from.")
def show(profile: str, resolved: bool) -> Result:
    """Show PROFILE as it is written, or with --resolved as it would be used now."""
    where = dirs()
    loaded = load_profile(profile, profiles_dir(where))
    if not resolved:
        text = loaded.path.read_text("utf-8")
        data = _shown(loaded)
        note = (
            [] if loaded.profile.measured else ["# not measured: nobody has run this profile yet"]
        )
        return Result(data=data, lines=[*note, *text.rstrip().splitlines()])
    settings = resolve(loaded, {}, os.environ, load_user_config(where.config))
    values: dict[str, Any] = msgspec.to_builtins(settings)
    sources: dict[str, str] = values.pop("sources")
    flat = {key: value for key, value in values.items() if key != "flags"}
    flat |= {f"flags.{key}": value for key, value in values["flags"].items()}
    rows = [(key, value, sources.get(key, "default")) for key, value in flat.items()]
    return Result(
        data=_shown(loaded) | {"resolved": values, "sources": sources},
        lines=table(("SETTING", "VALUE", "FROM"), rows),
    )


def _shown(loaded: LoadedProfile) -> dict[str, Any]:
    return {
        "name": loaded.name,
        "path": str(loaded.path),
        "shipped": loaded.shipped,
        "profile": msgspec.to_builtins(loaded.profile),
    }


@declare("profiles validate")
@click.argument("profiles", nargs=-1, required=True, metavar="PROFILE...")
def validate(profiles: tuple[str, ...]) -> Result:
    """Check profiles, by name or file, without starting anything."""
    folder = profiles_dir(dirs())
    checked: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for name in profiles:
        try:
            ref = find_profile(name, folder)
            loaded = load_profile(name, folder)
            catalogue.release(loaded.profile.engine)
            checked.append({"name": ref.name, "path": str(ref.path), "valid": True})
        except QlaunchError as error:
            problems += failure(error).problems
            checked.append({"name": name, "path": None, "valid": False})
    return Result(
        data={"profiles": checked},
        lines=[f"{c['name']}: {'valid' if c['valid'] else 'not valid'}" for c in checked],
        exit_code=ExitCode.USAGE if problems else ExitCode.OK,
        status="error" if problems else "ok",
        problems=problems,
    )


for _command, _name in ((list_, "list"), (show, "show"), (validate, "validate")):
    command.add_command(_command, _name)
