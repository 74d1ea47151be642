"""Bringing an installed environment to the release that this version of qlaunch knows.

An environment cannot be made elsewhere and moved: its scripts name their own folder. So the old one
is put aside, the new one is made in its place, and whatever goes wrong on the way, Ctrl-C included,
the old one is put back. After a crash in between, `restore` does that.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from launcher.engine.environments import install
from launcher.engine.release import Engine, InstalledEngine, Release
from launcher.linux import locks
from launcher.linux.files import read_bounded
from launcher.linux.removal import discard


def aside(engines: Path, release: Release) -> Path:
    """Where the old environment is during an upgrade."""
    return engines / f".{release.name}.before-upgrade"


def outdated(release: Release, engines: Path) -> InstalledEngine | None:
    """What is installed in place of `release` as it is now; None where nothing is, or the same."""
    root = install.environment_dir(engines, release)
    try:
        data = read_bounded(root / install.MARKER, 65_536)
        marker = msgspec.json.decode(data, type=InstalledEngine)
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
    same = marker.sglang == release.version and marker.lock_sha256 == install.lock_hash(release)
    return None if same else marker


def upgrade(release: Release, engines: Path, progress: install.Progress) -> Engine:
    """Install `release` in place of what is there of it.

    Raises:
        QlaunchError: `install`'s own; the old environment is in its place again then.
    """
    root, old = install.environment_dir(engines, release), aside(engines, release)
    with locks.held(engines / f".{release.name}.upgrade.lock", lambda: _waiting(release, progress)):
        _restore(release, engines)
        if outdated(release, engines) is None:  # another upgrade was quicker
            return install.install(release, engines, progress=progress)
        root.rename(old)
        try:
            made = install.install(release, engines, progress=progress)
        except BaseException:
            _restore(release, engines)
            raise
        discard(old)
    return made


def restore(release: Release, engines: Path) -> bool:
    """Put back what a crash during an upgrade left aside; whether there was something."""
    if not aside(engines, release).is_dir():
        return False
    with locks.held(engines / f".{release.name}.upgrade.lock", lambda: None):
        return _restore(release, engines)


def _restore(release: Release, engines: Path) -> bool:
    root, old = install.environment_dir(engines, release), aside(engines, release)
    if not old.is_dir():
        return False
    if install.find(release, engines) is not None:
        discard(old)  # the upgrade was done but for this
        return False
    discard(root)
    old.rename(root)
    return True


def _waiting(release: Release, progress: install.Progress) -> None:
    progress(f"another upgrade of {release.name} is running: waiting for it")
