"""`qlaunch bundle`: an archive that installs where there is no network, and its installation."""

from __future__ import annotations

from pathlib import Path

import click

from launcher.app import bundling
from launcher.app.prepare import Request
from launcher.cli.base import command as declare
from launcher.cli.base import group
from launcher.cli.out_file import OutFile
from launcher.cli.progress import Progress
from launcher.cli.result import Result, table
from launcher.errors import ExitCode, QlaunchError
from launcher.units import size

command = group("bundle", "Make an archive for machines without a network, and install it.")


@declare("bundle make")
@click.argument("output", metavar="OUT.tar", type=OutFile())
@click.option("--profile", required=True, metavar="PROFILE", help="What is to be served there.")
@click.option("--no-engine", is_flag=True, help="Leave the engine's wheels out.")
@click.option("--gpu", metavar="NAME", help="For a machine with this card (T4, RTX 3060).")
@click.option("--force", is_flag=True, help="Replace OUT.tar if it is there.")
@click.option("--dry-run", is_flag=True, help="Say what would go in, with sizes; fetch nothing.")
@click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")
def make(
    output: Path,
    profile: str,
    no_engine: bool,
    gpu: str | None,
    force: bool,
    dry_run: bool,
    quiet: bool,
) -> Result:
    """Write OUT.tar: qlaunch, its engine, PROFILE, its model, and an `install` that needs no index.

    The wheels are for the Python, processor and C library of this machine. What is fetched is kept
    beside OUT.tar until that is whole, so an interrupted one goes on where it stopped.

    \b
        qlaunch bundle make minilm.tar --profile cpu-minilm
        tar -xf minilm.tar && qlaunch-bundle/install        there
    """
    progress = Progress(quiet=quiet)
    if output.exists() and not (force or dry_run):
        raise QlaunchError(
            f"{output} is there already",
            code="output_exists",
            exit_code=ExitCode.CONFLICT,
            fix="give another name, or --force",
        )
    request = Request(profile, {}, fetch=False, foresee=True, gpu=gpu, secrets=False)
    job = bundling.plan(request, output, engine=not no_engine, progress=progress.line)
    lines = table(("WHAT", "SIZE"), [(part.what, _size(part)) for part in job.parts])
    if dry_run:
        return Result(data=_data(job, None), lines=lines)
    for line in lines:
        progress.line(line)
    try:
        job = bundling.make(job, progress.line)
    finally:
        progress.done()
    written = output.stat().st_size
    there = f"there: tar -xf {output.name} && qlaunch-bundle/install"
    return Result(data=_data(job, written), lines=[f"{output}: {size(written)}", there])


def _size(part: bundling.Part) -> str:
    return f"up to {size(part.bytes)}" if part.at_most else size(part.bytes)


def _data(job: bundling.Job, written: int | None) -> dict[str, object]:
    manifest = job.manifest
    return {
        "file": str(job.output),
        "bytes": written,
        "profile": manifest.profile,
        "python": manifest.python,
        "machine": manifest.machine,
        "launcher": {"version": manifest.qlaunch, "packages": list(job.launcher_packages)},
        "engine": None
        if manifest.engine is None
        else {
            "release": manifest.engine,
            "version": manifest.engine_version,
            "packages": list(job.engine_packages),
        },
        "model": {
            "name": manifest.model.name,
            "fingerprint": manifest.model.fingerprint or None,
            "bytes": manifest.model.bytes,
        },
        "parts": job.parts,
    }


@declare("bundle install")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace profiles of the same name.")
@click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")
def install(folder: Path, force: bool, quiet: bool) -> Result:
    """Install model, profile and engine of an unpacked bundle; asks no index and no hub.

    The `install` of the bundle calls this once it has installed qlaunch itself. Every file is held
    against its checksum first. Running it again is harmless.
    """
    from launcher.app.unbundling import unbundle

    progress = Progress(quiet=quiet)
    try:
        done = unbundle(folder, progress.line, replace=force)
    finally:
        progress.done()
    manifest = done.manifest
    data = {
        "profile": manifest.profile,
        "engine": manifest.engine,
        "model": {"path": str(done.model), "fingerprint": manifest.model.fingerprint},
        "profiles": [str(path) for path in done.profiles],
        "files": done.files,
    }
    what = "" if manifest.engine else " (the bundle has no engine)"
    lines = [
        f"installed profile {manifest.profile} with model {manifest.model.name}{what}",
        f"start it: qlaunch up {manifest.profile} --offline",
    ]
    return Result(data=data, lines=lines)


command.add_command(make, "make")
command.add_command(install, "install")
