"""Installing an unpacked air-gapped archive: model, profiles and engine, without an index."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from launcher import __version__
from launcher.bundle import manifest as documents
from launcher.bundle.manifest import Manifest, check_sums, damaged, read_manifest, require_host
from launcher.engine import releases
from launcher.engine.environments import install
from launcher.errors import ExitCode, QlaunchError
from launcher.linux.files import write_atomic
from launcher.model.inspect import inspect
from launcher.paths import Dirs, dirs

Progress = Callable[[str], None]

_SPARE_BYTES: Final = 64 << 20


@dataclass(frozen=True)
class Installed:
    """What was installed."""

    manifest: Manifest
    model: Path
    profiles: tuple[Path, ...]
    files: int
    """Checked against their sums."""


def unbundle(folder: Path, progress: Progress, *, replace: bool = False) -> Installed:
    """Install what is in an unpacked archive; running it again is harmless.

    Args:
        folder: `qlaunch-bundle`.
        progress: called with one line at a time for people.
        replace: whether profiles of the same name and another content are replaced.

    Raises:
        QlaunchError: `bundle_invalid`, `bundle_unsuitable`, `bundle_damaged` (exit 2),
            `disk_full` (exit 1), `profile_exists` (exit 9); as `install` for the engine.
    """
    manifest, where = read_manifest(folder), dirs()
    require_host(manifest, documents.this_host())
    _require_version(manifest, folder)
    progress("checking the files")
    files = check_sums(folder)
    profiles = _texts(folder, manifest, where)
    if not replace:
        _refuse_other(profiles)
    model = _model(folder, manifest, where, progress)
    for path, text in profiles.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode(), mode=0o644)
    if manifest.engine is not None:
        with _only_from(folder / documents.ENGINE_WHEELS):
            install.install(releases.release(manifest.engine), where.engines, progress=progress)
    return Installed(manifest, model, tuple(profiles), files)


def _require_version(manifest: Manifest, folder: Path) -> None:
    if manifest.qlaunch == __version__:
        return
    raise QlaunchError(
        f"this bundle belongs to qlaunch {manifest.qlaunch}, and this is {__version__}",
        code="bundle_unsuitable",
        fix=f"install the qlaunch that is in it: {folder / documents.INSTALL}",
    )


def _model(folder: Path, manifest: Manifest, where: Dirs, progress: Progress) -> Path:
    """Put the model's folder into place, by rename: it is whole or not there."""
    model = manifest.model
    source, target = folder / documents.MODEL / model.folder, where.models / model.folder
    if target.is_dir() and inspect(target).fingerprint == model.fingerprint:
        return target
    if target.exists():
        raise QlaunchError(
            f"{target} holds another model",
            code="model_exists",
            exit_code=ExitCode.CONFLICT,
            fix="remove it (qlaunch model list, qlaunch model remove MODEL), then run it again",
        )
    where.models.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(where.models).free
    if free < model.bytes + _SPARE_BYTES:
        raise QlaunchError(
            f"{where.models} has {free / 1e9:.1f} GB free, and the model needs "
            f"{(model.bytes + _SPARE_BYTES) / 1e9:.1f} GB",
            code="disk_full",
            exit_code=ExitCode.UNEXPECTED,
            fix="free space there, or set QLAUNCH_HOME to a folder on a larger disk",
        )
    progress(f"copying model {model.name}")
    part = where.models / f".{model.folder}.{os.getpid()}.partial"
    try:
        shutil.copytree(source, part)
        if inspect(part).fingerprint != model.fingerprint:
            raise damaged(folder, f"the model is not the one with fingerprint {model.fingerprint}")
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _texts(folder: Path, manifest: Manifest, where: Dirs) -> dict[Path, str]:
    """Profiles and cards by where they go, leading to the model's folder."""
    source, target = folder / documents.PROFILES, where.config / "profiles"
    model = where.models / manifest.model.folder
    found: dict[Path, str] = {}
    for path in sorted(source.rglob("*.yaml")):
        name, text = path.relative_to(source), path.read_text("utf-8")
        if name.parts[0] == "models":
            if manifest.model.found_by == "package":
                continue  # the card that comes with qlaunch, or names the same package, finds it
            text = _edited(text, lambda data: data["sources"].insert(0, str(model)))
        elif manifest.model.found_by == "profile" and name.stem == manifest.profile:
            text = _edited(text, lambda data: data.update(model=str(model)))
        found[target / name] = text
    return found


def _edited(text: str, change: Callable[[Any], object]) -> str:
    """YAML with one thing changed, comments and all else kept."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    data = yaml.load(text)
    change(data)
    out = io.StringIO()
    yaml.dump(data, out)
    return out.getvalue()


def _refuse_other(profiles: dict[Path, str]) -> None:
    """Leave the user's own files alone."""
    for path, text in profiles.items():
        if path.is_file() and path.read_text("utf-8") != text:
            raise QlaunchError(
                f"{path} is there already, with another content",
                code="profile_exists",
                exit_code=ExitCode.CONFLICT,
                fix="look at both, then move yours away or give --force",
            )


@contextlib.contextmanager
def _only_from(wheels: Path) -> Iterator[None]:
    """pip's settings for a block: these wheels and no index."""
    mine = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels.absolute())}
    before = {name: os.environ.get(name) for name in mine}
    os.environ.update(mine)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
