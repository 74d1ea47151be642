"""The engine of a plan: installed, brought by the user, or what an install would make."""

from __future__ import annotations

from pathlib import Path

from launcher.app import candidates
from launcher.app.known_model import Absent, Fetching
from launcher.config.loading import LoadedProfile
from launcher.config.settings import Resolved
from launcher.engine import releases
from launcher.engine.environments import environment_probe, install
from launcher.engine.release import Engine, Release
from launcher.errors import ExitCode, QlaunchError
from launcher.paths import Dirs
from launcher.plan import engine_and_card
from launcher.units import size


def brought(settings: Resolved, profile: LoadedProfile) -> Engine | None:
    """The engine in an environment of the user's own, where one is named."""
    if settings.engine_python is None:
        return None
    device, named = profile.profile.hardware.device, None
    if settings.engine != engine_and_card.AUTO:
        named, device = settings.engine, releases.release(settings.engine).device
    return environment_probe.own_engine(Path(settings.engine_python), device=device, named=named)


def known_engine(
    settings: Resolved, release: Release, where: Dirs, fetching: Fetching, *, elsewhere: bool
) -> Engine:
    """The installed engine; installed first where that is allowed, else foreseen.

    `elsewhere`: the plan is for another machine, and this one's environment is not started.

    Raises:
        QlaunchError: exit 5; `engine_missing`, `engine_broken`, or an install's own.
    """
    found = install.find(release, where.engines)
    if found is not None:
        if not elsewhere:
            install.require_whole(found)
        return found
    if fetching.foresee:
        return candidates.engine_for(release, where)
    if not fetching.fetch or settings.offline:
        raise QlaunchError(
            f"engine {release.name} (SGLang {release.version}) is not installed",
            code="engine_missing",
            exit_code=ExitCode.ENGINE,
            fix=f"qlaunch engine install {release.name}, or name your own with --engine-python",
        )
    fetching.progress(
        f"engine {release.name} is not installed yet: installing it once "
        f"({release.disk_bytes / 1e9:.1f} GB)"
    )
    return install.install(release, where.engines, progress=fetching.progress)


def absent(engine: Engine, settings: Resolved, where: Dirs) -> Absent | None:
    """That a start would install the engine first; None where it is there."""
    release = engine.release
    if settings.engine_python is not None or install.find(release, where.engines) is not None:
        return None
    what = f"engine {release.name} (SGLang {release.version})"
    then = f"`up` {'would install' if settings.offline else 'installs'} it first"
    then += f" ({size(release.disk_bytes)})"
    then += ", and --offline forbids that" if settings.offline else ""
    return Absent("engine", release.name, f"{what} is not installed: {then}")
