"""Making an air-gapped archive: wheels, model, profiles and an installer in one tar."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from launcher import __version__
from launcher.app.known_model import Fetching, known_model
from launcher.app.prepare import Prepared, Request, prepare, profiles_dir
from launcher.bundle import manifest as documents
from launcher.bundle import own_wheel, wheels
from launcher.bundle.archive import Entry, archive_bytes, files_below, write_archive
from launcher.bundle.manifest import BundledModel, Manifest
from launcher.config.loading import load_profile, shipped_dir
from launcher.engine.environments import install
from launcher.engine.release import Release
from launcher.engine.releases import LOCKS
from launcher.errors import ExitCode, QlaunchError
from launcher.linux import locks
from launcher.linux.files import write_atomic
from launcher.model.cards import shipped_cards
from launcher.model.package import MANIFEST as PACKAGE_MANIFEST
from launcher.paths import dirs

Progress = Callable[[str], None]

_INSTALLER: Final = Path(documents.__file__).with_name("offline_install.py")
_SPARE_BYTES: Final = 200_000_000


@dataclass(frozen=True)
class Part:
    """One part of an archive, before it is made."""

    what: str
    bytes: int
    at_most: bool
    """Whether `bytes` is a bound: wheels are smaller than what they install."""


@dataclass(frozen=True)
class Job:
    """An archive that can be made."""

    output: Path
    manifest: Manifest
    prepared: Prepared
    engine: Release | None
    launcher_packages: tuple[str, ...]
    engine_packages: tuple[str, ...]
    model_absent: bool
    """Whether the model has to be fetched first."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """What goes in, with sizes."""
        own = Part(
            f"qlaunch {self.manifest.qlaunch} and {len(self.launcher_packages)} packages",
            own_wheel.installed_bytes(self.launcher_packages),
            at_most=True,
        )
        model = self.manifest.model
        parts = [own, Part(f"model {model.name}", model.bytes, at_most=self.model_absent)]
        if self.engine is not None:
            what = f"engine {self.engine.name} (SGLang {self.engine.version}), "
            what += f"{len(self.engine_packages)} packages"
            parts.append(Part(what, self.engine.disk_bytes, at_most=True))
        return tuple(parts)

    @property
    def staging(self) -> Path:
        """Folder of what is fetched for it, removed when it is whole."""
        return self.output.with_name(f".{self.output.name}.parts")


def plan(request: Request, output: Path, *, engine: bool, progress: Progress) -> Job:
    """What would go into an archive for a profile; fetches nothing.

    Raises:
        QlaunchError: as `load_profile` and `prepare`; `bundle_unsuitable` (exit 2) for an engine of
            the user's own.
    """
    assert request.profile is not None
    profile = load_profile(request.profile, profiles_dir(dirs()))
    prepared = prepare(request, progress)
    if prepared.settings.engine_python is not None:
        raise QlaunchError(
            f"profile {profile.name} is to run in {prepared.settings.engine_python}, an environment"
            " of your own, which is not bundled",
            code="bundle_unsuitable",
            fix="unset engine_python and QLAUNCH_ENGINE_PYTHON, or give --no-engine",
        )
    release = prepared.engine.release
    host = documents.this_host()
    manifest = Manifest(
        qlaunch=__version__,
        python=host.python,
        machine=host.machine,
        libc=host.libc,
        profile=profile.name,
        engine=release.name if engine else None,
        engine_version=release.version if engine else None,
        model=_bundled(prepared),
    )
    return Job(
        output,
        manifest,
        prepared,
        release if engine else None,
        own_wheel.requirements(),
        locked(release) if engine else (),
        any(each.kind == "model" for each in prepared.absent),
    )


def locked(release: Release) -> tuple[str, ...]:
    """Packages that an install of a release puts in, as its lock pins them."""
    pinned = dict.fromkeys(release.requirements)
    if release.lock:
        lines = (LOCKS / release.lock).read_text("utf-8").splitlines()
        words = [line.split() for line in lines if "==" in line]
        pinned |= dict.fromkeys(each[0].rstrip("\\") for each in words if each[0][0] != "#")
    return tuple(sorted(pinned, key=str.lower))


def _bundled(prepared: Prepared) -> BundledModel:
    """The model as the archive names it; sizes of one that is not here come from its card."""
    checkpoint, path = prepared.checkpoint, Path(prepared.plan.model_path)
    here = path.is_dir()
    files = files_below(path, "") if here else []
    found_by = "profile"
    if prepared.card is not None:
        packaged = path.parent == dirs().models and (path / PACKAGE_MANIFEST).is_file()
        found_by = "package" if packaged or not here else "card"
    name = path.name if here else prepared.settings.model
    if path.parent.name == "snapshots":  # of a hub's cache: the folder's name is a commit
        name = path.parents[1].name.removeprefix("models--")
    return BundledModel(
        name=prepared.settings.model,
        folder=name,
        fingerprint=checkpoint.fingerprint if here else "",
        bytes=sum(entry.size for entry in files) if here else checkpoint.weight_bytes,
        found_by=found_by,  # type: ignore[arg-type]  # one of the three
    )


def make(job: Job, progress: Progress) -> Job:
    """Fetch what is missing and write the archive; returns the job as it was done.

    Raises:
        QlaunchError: `disk_full` or `not_written` (exit 1); what fetching wheels or a model raises.
    """
    require_space(job.output, sum(part.bytes for part in job.parts))
    job = _with_model(job, progress)
    try:
        with _staged(job, progress):
            entries = _entries(job, progress)
            require_space(job.output, archive_bytes(entries))
            write_archive(job.output, entries, progress)
    except OSError as error:
        raise _not_written(job.output, error) from error
    shutil.rmtree(job.staging, ignore_errors=True)
    return job


def _with_model(job: Job, progress: Progress) -> Job:
    if not job.model_absent:
        return job
    prepared, where = job.prepared, dirs()
    how = Fetching(fetch=True, foresee=False, offline=prepared.settings.offline, progress=progress)
    base = prepared.profile.file(("model",)).parent
    known = known_model(prepared.settings.model, where, how, base=base)
    path = str(known.checkpoint.path)
    changed = replace(
        prepared,
        checkpoint=known.checkpoint,
        card=known.card,
        plan=msgspec.structs.replace(prepared.plan, model_path=path),
    )
    manifest = msgspec.structs.replace(job.manifest, model=_bundled(changed))
    return replace(job, manifest=manifest, prepared=changed, model_absent=False)


@contextlib.contextmanager
def _staged(job: Job, progress: Progress) -> Iterator[None]:
    """The folder of fetched wheels, this job's alone: one of another version is emptied."""
    staging, release = job.staging, job.engine
    lock = install.lock_hash(release) if release is not None else ""
    mark = msgspec.json.encode((job.manifest, job.launcher_packages, lock))
    staging.mkdir(exist_ok=True)

    def waiting() -> None:
        progress(f"another process makes {job.output}: waiting for it")

    with locks.held(staging / "lock", waiting):
        marker = staging / "for.json"
        if not marker.exists() or marker.read_bytes() != mark:
            for name in (documents.LAUNCHER_WHEELS, documents.ENGINE_WHEELS):
                shutil.rmtree(staging / name, ignore_errors=True)
            write_atomic(marker, mark)
        yield


def _entries(job: Job, progress: Progress) -> list[Entry]:
    manifest = job.manifest
    own = job.staging / documents.LAUNCHER_WHEELS
    progress(f"fetching qlaunch's own {len(job.launcher_packages)} packages")
    wheels.download("qlaunch", own, ["--no-deps", *job.launcher_packages])
    own_wheel.write_own_wheel(own, shipped_dir())
    entries = [
        Entry(documents.MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"),
        Entry(documents.INSTALL, _INSTALLER, executable=True),
        *files_below(own, documents.LAUNCHER_WHEELS),
        *files_below(
            Path(job.prepared.plan.model_path), f"{documents.MODEL}/{manifest.model.folder}"
        ),
        *_profiles(job.prepared),
    ]
    if job.engine is not None:
        folder = job.staging / documents.ENGINE_WHEELS
        _engine_wheels(job.engine, folder, len(job.engine_packages), progress)
        entries += files_below(folder, documents.ENGINE_WHEELS)
    return entries


def _engine_wheels(release: Release, folder: Path, count: int, progress: Progress) -> None:
    """As `engine install` has them: what is required with its dependencies, then the lock."""
    what = f"engine {release.name}"
    progress(f"fetching the engine's {count} packages")
    lock = LOCKS / release.lock if release.lock else None
    if release.requirements:
        within = ["-c", str(lock)] if lock is not None else []
        wheels.download(what, folder, [*within, *release.requirements])
    if lock is not None:
        wheels.download(what, folder, ["--no-deps", "-r", str(lock)])


def _profiles(prepared: Prepared) -> Iterator[Entry]:
    """The user's own files among the profile, its parents and the model's card."""
    profile = prepared.profile
    for path in (profile.path.absolute(), *(each.absolute() for each in profile.parents)):
        if not path.is_relative_to(shipped_dir()):
            yield Entry(f"{documents.PROFILES}/{path.name}", path)
    if prepared.card is not None:
        name = f"{prepared.card.name}.yaml"
        own = profiles_dir(dirs()) / "models" / name
        path = own if own.is_file() else shipped_cards() / name
        yield Entry(f"{documents.PROFILES}/models/{name}", path)


def require_space(output: Path, needed: int) -> None:
    """Refuse what does not fit beside `output`.

    Raises:
        QlaunchError: `not_written` or `disk_full` (exit 1).
    """
    folder = output.absolute().parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise _not_written(output, error) from error
    if free < needed + _SPARE_BYTES:
        raise QlaunchError(
            f"{folder} has {free / 1e9:.1f} GB free, and {output.name} needs up to "
            f"{(needed + _SPARE_BYTES) / 1e9:.1f} GB",
            code="disk_full",
            exit_code=ExitCode.UNEXPECTED,
            fix="free space there, or write it to another disk",
        )


def _not_written(path: Path, error: OSError) -> QlaunchError:
    place = error.filename or path
    return QlaunchError(
        f"cannot write {path}: {place}: {error.strerror or error}",
        code="not_written",
        exit_code=ExitCode.UNEXPECTED,
        fix="give another place, or free space there; the same command then goes on",
    )
