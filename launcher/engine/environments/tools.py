"""Environments of programs beside the engines (other servers, the quantiser): each whole or absent.

`installed.json` is written last, so that its presence says an environment was whole; anything else
in its folder is an install that was cut short, and the next one begins anew. What was taken out of
it by hand since is looked for each time (wholeness.py).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from launcher import pip_settings
from launcher.engine.environments import pip, wholeness
from launcher.errors import ExitCode, QlaunchError
from launcher.linux import locks
from launcher.linux.files import read_bounded, write_atomic

Progress = Callable[[str], None]
MARKER: Final = "installed.json"
_LIMITS: Final = "constraints.txt"
"""The pins of a lock without their hashes: torch has none in a lock, for which build of it there is
depends on the index, and pip asks for the hash of everything as soon as it sees one."""


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """What an environment is made of."""

    name: str
    title: str
    package: str
    version: str
    python: str
    """Python versions it installs on, as a specifier."""
    requirements: tuple[str, ...]
    """Installed first, with their dependencies."""
    then: tuple[str, ...]
    """Installed after them, within the lock."""
    lock: Path
    """Constraints for pip."""
    hashed: bool = False
    """The lock has every package but `requirements`, with hashes: it is installed first, as it
    stands, and `requirements` within its pins."""
    disk_bytes: int


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """`installed.json`."""

    name: str
    version: str
    identity: str


def python(root: Path) -> Path:
    """The environment's Python."""
    return root / "bin" / "python"


def identity(tool: Tool) -> str:
    """What an install would put in: requirements and lock."""
    digest = hashlib.sha256("\n".join((*tool.requirements, *tool.then)).encode())
    digest.update(tool.lock.read_bytes())
    return digest.hexdigest()


def find(tool: Tool, root: Path) -> Path | None:
    """`root`, where a whole environment of this very version is in it."""
    try:
        found = msgspec.json.decode(read_bounded(root / MARKER, 65_536), type=Installed)
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
    current = found.identity == identity(tool) and python(root).exists()
    return root if current and wholeness.missing_in(root, _wanted(tool)) is None else None


def _wanted(tool: Tool) -> frozenset[str]:
    """Packages that must be there; a lock without hashes also limits what may not be asked for."""
    lines = [*tool.requirements, *tool.then]
    if tool.hashed:
        lines += tool.lock.read_text("utf-8").splitlines()
    return wholeness.packages(lines)


def install(tool: Tool, root: Path, *, progress: Progress) -> Path:
    """The environment in `root`; made first where it is not there.

    Raises:
        QlaunchError: exit 5 with code `engine_unsupported`, `disk_full`, `engines_dir_unusable`,
            `engine_install_failed`, or what lies between us and the package index.
    """
    found = find(tool, root)
    if found is not None:
        return found
    _check(tool)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        _check_space(tool, root.parent)
        lock = root.parent / f".{tool.name}.lock"
        with locks.held(lock, lambda: progress(f"another install of {tool.name} is running")):
            return find(tool, root) or _build(tool, root, progress)
    except OSError as error:
        raise pip.refused_here(tool.name, error) or QlaunchError(
            f"{tool.name} cannot be installed in {root}: {error.strerror or error}",
            code="engine_install_failed",
            exit_code=ExitCode.ENGINE,
            fix="make that path writable, or set QLAUNCH_HOME to a folder of your own",
        ) from error


def _build(tool: Tool, root: Path, progress: Progress) -> Path:
    if (ignored := pip_settings.told(pip_settings.read(os.environ, "install"))) is not None:
        progress(ignored)
    progress(f"installing {tool.package} {tool.version} once, in {root}")
    if root.exists():
        shutil.rmtree(root)
    root.mkdir()
    pip.create_environment(tool.name, root)
    limits = tool.lock
    if tool.hashed:
        pip.install_lock(tool.name, python(root), tool.lock, progress=progress)
        limits = root / _LIMITS
        limits.write_text("\n".join(pins(tool.lock.read_text("utf-8"))) + "\n", "utf-8")
    # torch by itself: what the rest asks for must not choose another build of it.
    for wanted in filter(None, (tool.requirements, tool.then)):
        pip.install(tool.name, python(root), wanted, constraint=limits, progress=progress)
    marker = Installed(name=tool.name, version=tool.version, identity=identity(tool))
    write_atomic(root / MARKER, msgspec.json.encode(marker), mode=0o644)
    return root


def pins(lock: str) -> list[str]:
    """The `name==version` of every package of a lock, with the marker where it has one."""
    lines = (line.partition("--hash")[0].rstrip("\\ \n") for line in lock.splitlines())
    return [line for line in lines if "==" in line and not line.startswith((" ", "#", "-"))]


def _check(tool: Tool) -> None:
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    version = ".".join(str(part) for part in sys.version_info[:3])
    if Version(version) not in SpecifierSet(tool.python):
        raise QlaunchError(
            f"{tool.name} {tool.version} needs Python {tool.python}, this is {version}",
            code="engine_unsupported",
            exit_code=ExitCode.ENGINE,
            fix="run qlaunch with a Python that fits",
        )


def _check_space(tool: Tool, where: Path) -> None:
    free = shutil.disk_usage(where).free
    if free < tool.disk_bytes:
        raise QlaunchError(
            f"{tool.name} needs {tool.disk_bytes / 1e9:.1f} GB in {where}, which has"
            f" {free / 1e9:.1f} GB free",
            code="disk_full",
            exit_code=ExitCode.ENGINE,
            fix="free space there, or set QLAUNCH_HOME to a folder on a larger disk",
        )
