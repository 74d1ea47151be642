"""A profile's engine options and releases, asked of the engines that it may run on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from launcher.app import candidates
from launcher.argv import FlagValue
from launcher.config.loading import LoadedProfile
from launcher.config.settings import load_user_config, place, resolve
from launcher.engine import command, releases
from launcher.engine.environments import install
from launcher.engine.options import flags as flag_tables
from launcher.engine.options import own_options
from launcher.engine.options.spelling import spelled
from launcher.engine.release import Engine, Release
from launcher.errors import QlaunchError
from launcher.paths import Dirs
from launcher.plan import engine_and_card, option_checks
from launcher.yaml_reader import KeyPath


def check_releases(loaded: LoadedProfile) -> None:
    """Refuse options for an engine release that does not exist: they would never be used.

    Raises:
        QlaunchError: `engine_unknown` (exit 5), with file, line and the nearest names.
    """
    for name in loaded.profile.flags_by_engine:
        try:
            releases.release(name)
        except QlaunchError as error:
            raise _placed(loaded, ("flags_by_engine", name), error) from error


def check_flags(loaded: LoadedProfile, where: Dirs, progress: Callable[[str], None]) -> bool:
    """Refuse options with which a plan would end on every engine that the profile may run on.

    Returns:
        Whether they were looked at: an engine of the user's own is asked by `plan` alone.

    Raises:
        QlaunchError: `flag_unknown` and its kin (exit 5), with file and line.
    """
    settings = resolve(loaded, {}, os.environ, load_user_config(where.config))
    if settings.engine_python is not None:
        return False

    def asked(release: str, flags: Mapping[str, FlagValue], *at: str | int) -> None:
        _require(loaded, at, flags, _engine(releases.release(release), where, progress))

    for name, flags in loaded.profile.flags_by_engine.items():
        asked(name, flags, "flags_by_engine", name)
    fitting = [settings.engine]
    if settings.engine == engine_and_card.AUTO:
        device = loaded.profile.hardware.device
        fitting = [name for name, each in releases.releases().items() if each.device == device]
    steps: list[KeyPath] = [
        ("flags",),
        *(("fallback", number) for number in range(len(loaded.profile.fallback))),
    ]
    everything = [loaded.profile.flags, *loaded.profile.fallback]
    for at, flags in zip(steps, everything, strict=True):
        failed: list[QlaunchError] = []
        for name in fitting:
            try:
                asked(name, flags, *at)
            except QlaunchError as error:
                failed.append(error)
        if len(failed) == len(fitting):
            raise failed[0]
    return True


def _engine(release: Release, where: Dirs, progress: Callable[[str], None]) -> Engine:
    """The engine as it is installed, with its own options; else as an install would make it."""
    found = install.find(release, where.engines)
    if found is None:
        return candidates.engine_for(release, where)
    return own_options.with_options(found, where.cache, progress)


def _require(
    loaded: LoadedProfile, at: KeyPath, flags: Mapping[str, FlagValue], engine: Engine
) -> None:
    """Refuse options of one place in a profile that an engine does not take."""
    table = engine.options or flag_tables.table(engine.version)
    known = table.index() if table else {}
    for name, value in flags.items():
        one, _ = spelled({name: value}, known)
        try:
            option_checks.check_options(option_checks.given(one, ()), device=engine.release.device)
            flag_tables.require(command.render(one), engine.options or engine.version)
        except QlaunchError as error:
            raise _placed(loaded, (*at, name), error) from error


def _placed(loaded: LoadedProfile, at: KeyPath, error: QlaunchError) -> QlaunchError:
    """An error with the file and the line of what it is about."""
    where = place("profile", loaded.file(at), loaded.lines, at)
    return error.saying(f"{where}: {error.message}")
