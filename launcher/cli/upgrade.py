"""`qlaunch upgrade`: engines to the releases that this version knows."""

from __future__ import annotations

import click

from launcher import __version__
from launcher.app import usage
from launcher.app.upgrade import way
from launcher.cli.base import command as declare
from launcher.cli.progress import Progress
from launcher.cli.result import Result
from launcher.engine import releases
from launcher.engine.environments import install, upgrade
from launcher.engine.release import InstalledEngine, Release
from launcher.paths import dirs


@declare("upgrade")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
def command(dry_run: bool) -> Result:
    """Bring the installed engines to the releases that this version of qlaunch knows.

    An engine in use is refused before anything is changed. The old environment is put back where
    the new one cannot be made. qlaunch itself is not changed: the command for that is printed.
    """
    engines = dirs().engines
    if not dry_run:
        for release in releases.releases().values():
            upgrade.restore(release, engines)
    old = [
        (release, found)
        for release in releases.releases().values()
        if (found := upgrade.outdated(release, engines)) is not None
    ]
    for release, _found in old:
        usage.refuse(install.environment_dir(engines, release), f"engine {release.name}")
    progress = Progress()
    try:
        for release, _found in () if dry_run else old:
            upgrade.upgrade(release, engines, progress.line)
    finally:
        progress.done()
    own = way()
    data = {
        "dry_run": dry_run,
        "engines": [
            {"name": release.name, "from": found.sglang, "to": release.version}
            for release, found in old
        ],
        "launcher": {"version": __version__, "how": own.how, "command": own.command},
    }
    return Result(data=data, lines=[*_lines(old, dry_run=dry_run), _itself(own.command)])


def _itself(line: str) -> str:
    return f"qlaunch itself is {__version__}; a newer one comes with: {line}"


def _lines(old: list[tuple[Release, InstalledEngine]], *, dry_run: bool) -> list[str]:
    if not old:
        return ["every installed engine is as this version wants it"]
    verb = "would be upgraded" if dry_run else "upgraded"
    return [
        f"{release.name}: {verb} from SGLang {found.sglang} to {release.version}"
        if found.sglang != release.version
        else f"{release.name}: {verb}, SGLang {release.version} with other packages beside it"
        for release, found in old
    ]
