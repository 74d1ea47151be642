"""`qlaunch engine`: engine releases and their environments."""

from __future__ import annotations

import click
import msgspec
from msgspec.structs import asdict

from launcher.app import usage
from launcher.cli import screen
from launcher.cli.base import command as declare
from launcher.cli.base import group
from launcher.cli.progress import Progress
from launcher.cli.result import Result, table
from launcher.engine import releases
from launcher.engine.environments import install
from launcher.engine.release import Release
from launcher.errors import ExitCode, QlaunchError
from launcher.hardware import detect as reading
from launcher.hardware.inventory import Hardware
from launcher.paths import dirs
from launcher.units import size

command = group("engine", "List, install and remove engine releases.")


class KnownRelease(msgspec.Struct, frozen=True, kw_only=True):
    """One release of `engine list`."""

    name: str
    version: str
    title: str
    device: str
    start: tuple[str, ...]
    installed: bool
    path: str | None
    bytes: int | None
    disk_bytes: int
    installable: bool
    reason: str | None
    """Why it cannot be installed here."""
    notes: tuple[str, ...]


@declare("engine list")
def list_() -> Result:
    """List the releases, whether they are installed, and whether they can be."""
    hardware = reading.detect()
    found = [_entry(release, hardware) for release in releases.releases().values()]
    rows = [
        (
            e.name,
            e.version,
            e.device,
            size(e.bytes) if e.installed else f"no ({size(e.disk_bytes)})",
            "yes" if e.installable else "no",
            e.title,
        )
        for e in found
    ]
    headings = ("RELEASE", "SGLANG", "DEVICE", "INSTALLED", "INSTALLS HERE", "TITLE")
    lines = table(headings, rows)
    refused = [(e.name, e.reason) for e in found if e.reason is not None]
    if refused:
        lines += ["not here", *screen.by_reason(refused)]
    return Result(data={"engines": found}, lines=lines)


def _entry(release: Release, hardware: Hardware) -> KnownRelease:
    engines = dirs().engines
    here = install.find(release, engines)
    reason = _why_not(release, hardware)
    return KnownRelease(
        name=release.name,
        version=release.version,
        title=release.title,
        device=release.device,
        start=release.start,
        installed=here is not None,
        path=str(here.root) if here else None,
        bytes=install.size_bytes(release, engines) if here else None,
        disk_bytes=release.disk_bytes,
        installable=reason is None,
        reason=reason,
        notes=release.notes,
    )


@declare("engine install")
@click.argument("release", default="cpu")
@click.option("--force", is_flag=True, help="Start from nothing even if it is installed.")
@click.option(
    "--anyway",
    is_flag=True,
    help="Install a CUDA release although no GPU here can run it.",
)
def install_(release: str, force: bool, anyway: bool) -> Result:
    """Install RELEASE (default: cpu) into an environment of its own.

    Running it again returns at once; one that was interrupted goes on where it stopped, and one
    from which files were removed is made again.
    """
    wanted = releases.release(release)
    _require_installable(wanted, anyway=anyway)
    if force or install.replaces(wanted, dirs().engines):
        _refuse_in_use(wanted.name)
    progress = Progress()
    try:
        engine = install.install(wanted, dirs().engines, progress=progress.line, force=force)
    finally:
        progress.done()
    entry = asdict(_entry(wanted, reading.detect()))
    data = {**entry, "python": str(engine.python), "torch": engine.torch}
    lines = [f"{wanted.name}: SGLang {engine.version}, torch {engine.torch}, in {engine.root}"]
    return Result(data=data, lines=lines)


@declare("engine remove")
@click.argument("release")
def remove(release: str) -> Result:
    """Remove the environment of RELEASE."""
    wanted = releases.release(release)
    _refuse_in_use(wanted.name)
    removed = install.remove(wanted, dirs().engines)
    line = f"{wanted.name}: removed" if removed else f"{wanted.name}: was not installed"
    return Result(data={"name": wanted.name, "removed": removed}, lines=[line])


def _require_installable(wanted: Release, *, anyway: bool) -> None:
    """Refuse what `engine list` says does not install here, before a large download.

    `anyway` skips what the GPUs say: an environment may be made for another machine.
    """
    if anyway or (reason := _why_not(wanted, reading.detect())) is None:
        return
    gpu = releases.why_not_hardware(wanted, reading.detect()) == reason
    raise QlaunchError(
        f"engine {wanted.name} (SGLang {wanted.version}) cannot be installed here: {reason}",
        code="engine_unsupported",
        exit_code=ExitCode.ENGINE,
        fix="use the cpu release, or install it all the same with --anyway"
        if gpu
        else "run qlaunch with a Python that fits, or see `qlaunch engine list` for another",
    )


def _why_not(wanted: Release, hardware: Hardware) -> str | None:
    return releases.why_not_install(wanted, releases.this_host(), hardware)


def _refuse_in_use(name: str) -> None:
    """Refuse while a service, or any process of this machine, runs from the environment."""
    root = install.environment_dir(dirs().engines, releases.release(name))
    try:
        usage.refuse(root, f"engine {name}")
    except QlaunchError as error:
        raise QlaunchError(
            error.message,
            code="engine_in_use",
            exit_code=ExitCode.CONFLICT,
            fix=error.fix,
            data=error.data,
        ) from error


for _command, _name in ((list_, "list"), (install_, "install"), (remove, "remove")):
    command.add_command(_command, _name)
