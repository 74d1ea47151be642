"""`bundle.json`: what an archive holds, and which machines it is for."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Final, Literal

import msgspec

from launcher.errors import ExitCode, QlaunchError
from launcher.linux.files import read_bounded, sha256

VERSION: Final = 1
ROOT: Final = "qlaunch-bundle"
"""The one folder that the archive unpacks to."""
MANIFEST: Final = "bundle.json"
SUMS: Final = "SHA256SUMS"
INSTALL: Final = "install"
LAUNCHER_WHEELS: Final = "wheels"
ENGINE_WHEELS: Final = "engine-wheels"
MODEL: Final = "model"
PROFILES: Final = "profiles"
_LIMIT: Final = 16 << 20


class BundledModel(msgspec.Struct, frozen=True, kw_only=True):
    """The model in an archive."""

    name: str
    """As the profile names it: a card, a source or a folder."""
    folder: str
    """Its folder's name, in the archive and below `models/` where it is installed."""
    fingerprint: str
    bytes: int
    found_by: Literal["package", "card", "profile"]
    """What leads to it once installed: its place, a card or a profile that names the folder."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`bundle.json`."""

    version: int = VERSION
    qlaunch: str
    python: str
    """Major and minor of the Python that the wheels are for."""
    machine: str
    libc: str
    profile: str
    engine: str | None
    """Release whose wheels are in it; None where it was made without the engine."""
    engine_version: str | None
    model: BundledModel


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """A machine, as far as wheels care."""

    python: str
    machine: str
    libc: str


def this_host() -> Host:
    """This machine and Python."""
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return Host(python=python, machine=platform.machine(), libc=platform.libc_ver()[0] or "unknown")


def require_host(manifest: Manifest, host: Host) -> None:
    """Refuse an archive whose wheels are for other machines.

    Raises:
        QlaunchError: `bundle_unsuitable` (exit 2).
    """
    made = Host(python=manifest.python, machine=manifest.machine, libc=manifest.libc)
    if made == host:
        return
    raise QlaunchError(
        f"this bundle is for {_words(made)}, and this is {_words(host)}",
        code="bundle_unsuitable",
        fix="make one on a machine like this one: qlaunch bundle make OUT.tar --profile NAME",
    )


def _words(host: Host) -> str:
    return f"Python {host.python} on {host.machine} with {host.libc}"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an unpacked archive.

    Raises:
        QlaunchError: `bundle_invalid` (exit 2): the folder is none, or of a newer qlaunch.
    """
    if not folder.is_dir():
        tar = folder.suffix == ".tar"
        unpack = f"unpack it first: tar -xf {folder}" if tar else None
        raise _invalid(f"{folder} is not a folder", fix=unpack)
    try:
        found = msgspec.json.decode(read_bounded(folder / MANIFEST, _LIMIT), type=Manifest)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise _invalid(f"{folder} holds no readable {MANIFEST}") from error
    if found.version != VERSION:
        raise _invalid(f"{folder} was made by qlaunch {found.qlaunch}, which is newer than this")
    return found


def check_sums(folder: Path) -> int:
    """Hold every file against `SHA256SUMS`; returns their number.

    Raises:
        QlaunchError: `bundle_damaged` (exit 2): a file is missing, changed, or not in the list.
    """
    try:
        lines = read_bounded(folder / SUMS, _LIMIT).decode("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise damaged(folder, f"{SUMS} cannot be read") from error
    wanted = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    there = {path.relative_to(folder).as_posix() for path in _files(folder)} - {SUMS}
    for name in sorted(there ^ wanted.keys()):
        raise damaged(folder, f"{name} is {'missing' if name in wanted else 'not part of it'}")
    for name, digest in wanted.items():
        if sha256(folder / name) != digest:
            raise damaged(folder, f"{name} is not the file that was put in")
    return len(wanted)


def _files(folder: Path) -> list[Path]:
    found = []
    for at, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        found += [Path(at) / name for name in names]
    return found


def damaged(folder: Path, why: str) -> QlaunchError:
    """`bundle_damaged`, exit 2: what was copied is not what was made."""
    return QlaunchError(
        f"the bundle in {folder} is damaged: {why}",
        code="bundle_damaged",
        fix="copy the archive again, and unpack it into an empty folder",
    )


def _invalid(what: str, fix: str | None = None) -> QlaunchError:
    return QlaunchError(
        what,
        code="bundle_invalid",
        exit_code=ExitCode.USAGE,
        fix=fix or "give the folder that a bundle was unpacked to: qlaunch-bundle",
    )
