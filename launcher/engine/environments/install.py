"""Install, find and remove engine environments.

An environment is whole when `installed.json` is in it: that file is written last and removed first.
Anything else in its folder is an interrupted install, which the next one resumes (pip skips what is
already there) or, if the result does not import, starts again from nothing. What was taken out of
it by hand since is looked for before it is used (wholeness.py). A file lock beside the
folder makes two installs of one release wait for each other.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from launcher import pip_settings
from launcher.engine.environments import bytecode, environment_probe, pip, stub_driver, wholeness
from launcher.engine.options import own_options
from launcher.engine.release import Engine, InstalledEngine, Release
from launcher.engine.releases import LOCKS, this_host, why_not_here
from launcher.errors import ExitCode, QlaunchError
from launcher.linux import locks
from launcher.linux.files import read_bounded, write_atomic
from launcher.units import now

MARKER: Final = "installed.json"
_UNFINISHED: Final = "unfinished.json"
_SPARE_BYTES: Final = 500_000_000
"""Room left beside the environment: pip unpacks wheels in the temporary folder."""

Progress = Callable[[str], None]


def environment_dir(engines: Path, release: Release) -> Path:
    """Folder of the release's environment, whether or not it is there."""
    return engines / release.name


def find(release: Release, engines: Path) -> Engine | None:
    """The installed environment of `release`, or None where there is none or it is unfinished."""
    root = environment_dir(engines, release)
    try:
        marker = msgspec.json.decode(read_bounded(root / MARKER, 65_536), type=InstalledEngine)
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
    python = root / "bin" / "python"
    if marker.sglang != release.version or not python.exists():
        return None
    return Engine(
        release=release,
        python=python,
        version=marker.sglang,
        root=root,
        torch=marker.torch,
        cuda_home=environment_probe.cuda_home(release, python),
    )


def size_bytes(release: Release, engines: Path) -> int | None:
    """Bytes the installed environment takes, as counted when it was installed."""
    try:
        data = read_bounded(environment_dir(engines, release) / MARKER, 65_536)
        return msgspec.json.decode(data, type=InstalledEngine).bytes
    except (OSError, ValueError, msgspec.MsgspecError):
        return None


def install(release: Release, engines: Path, *, progress: Progress, force: bool = False) -> Engine:
    """Make the release's environment, or return at once where it is whole and unchanged.

    Args:
        release: what to install.
        engines: folder of all environments; made if missing.
        progress: called with one line at a time for people.
        force: start from nothing even where the environment is whole.

    Raises:
        QlaunchError: exit 5 with code `engine_unsupported`, `disk_full`, `engine_broken`,
            `engines_dir_unusable`, `engine_install_failed`, or what lies between us and the
            package index (`launcher.network.causes`).
    """
    _check_platform(release)
    try:
        engines.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _failed(release, f"cannot create {engines}: {error.strerror}") from error
    _check_exec(release, engines)
    with _locked(engines / f".{release.name}.lock", release, progress):
        found = None if force else find(release, engines)
        if found is not None and _is_current(found):
            if (what := damage(found)) is None:
                if own_options.stored(found) is None and _importable(found):
                    _keep_options(found, progress)
                return found
            progress(f"the engine that is installed is not whole: {what}; starting from nothing")
        return _install_locked(release, engines, progress, clean=force)


def damage(engine: Engine) -> str | None:
    """What is missing from an installed environment, in words; None where it is whole."""
    return wholeness.missing(engine, current=engine.root is not None and _is_current(engine))


def require_whole(engine: Engine) -> None:
    """Refuse to start an engine from whose environment something is missing.

    Raises:
        QlaunchError: `engine_broken` (exit 5), naming the first thing that is missing.
    """
    if (what := damage(engine)) is not None:
        name = engine.release.name
        raise QlaunchError(
            f"engine {name} is installed and not whole: {what}",
            code="engine_broken",
            exit_code=ExitCode.ENGINE,
            fix=f"make it again: qlaunch engine install {name}",
        )


def replaces(release: Release, engines: Path) -> bool:
    """Whether an install removes an environment that counts as installed: older, or not whole."""
    found = find(release, engines)
    return found is not None and (not _is_current(found) or damage(found) is not None)


def remove(release: Release, engines: Path) -> bool:
    """Remove the release's environment; False where there was nothing.

    Raises:
        QlaunchError: `engine_remove_failed` (exit 1) naming the path that could not be removed.
    """
    root = environment_dir(engines, release)
    if not root.exists():
        return False
    with _locked(engines / f".{release.name}.lock", release, lambda _line: None):
        _remove_tree(root)
    return True


def idle(release: Release, engines: Path) -> bool:
    """Whether nobody installs or removes the release at this moment."""
    path = engines / f".{release.name}.lock"
    if not path.exists():
        return True
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return locks.take(fd)
    except OSError:
        return False
    finally:
        os.close(fd)


def lock_hash(release: Release) -> str:
    """Identity of what an install of `release` would put in: lock file and requirements."""
    digest = hashlib.sha256("\n".join(release.requirements).encode())
    if release.lock:
        digest.update((LOCKS / release.lock).read_bytes())
    return digest.hexdigest()


def _is_current(engine: Engine) -> bool:
    """Whether it was made of the packages that the release lists today."""
    assert engine.root is not None
    data = read_bounded(engine.root / MARKER, 65_536)
    marker = msgspec.json.decode(data, type=InstalledEngine)
    return marker.lock_sha256 == lock_hash(engine.release)


def _check_platform(release: Release) -> None:
    host = this_host()
    reason = why_not_here(release, python=host.python, machine=host.machine, glibc=host.glibc)
    if reason is not None:
        raise QlaunchError(
            f"engine {release.name} (SGLang {release.version}) cannot be installed here: {reason}",
            code="engine_unsupported",
            exit_code=ExitCode.ENGINE,
            fix="run qlaunch with a Python that fits, or see `qlaunch engine list` for another",
        )


def _install_locked(release: Release, engines: Path, progress: Progress, *, clean: bool) -> Engine:
    root = environment_dir(engines, release)
    resumed = not clean and _same_unfinished(root, release)
    if root.exists() and not resumed:
        _remove_tree(root)
    _check_space(release, root, release.disk_bytes, already=_tree_bytes(root) if resumed else 0)
    if (ignored := pip_settings.told(pip_settings.read(os.environ, "install"))) is not None:
        progress(ignored)
    progress(f"{'resuming' if resumed else 'installing'} SGLang {release.version} in {root}")
    try:
        return _build(release, root, progress)
    except QlaunchError as error:
        if not (resumed and error.code in ("engine_broken", "engine_install_failed")):
            raise
    except OSError as error:
        if (refused := pip.refused_here(release.name, error)) is None:
            raise
        raise refused from error
    progress("the interrupted install does not work: starting from nothing")
    return _install_locked(release, engines, progress, clean=True)


def _build(release: Release, root: Path, progress: Progress) -> Engine:
    root.mkdir(exist_ok=True)
    write_atomic(root / _UNFINISHED, msgspec.json.encode({"lock_sha256": lock_hash(release)}))
    python = root / "bin" / "python"
    if not python.exists():
        pip.create_environment(release.name, root)
    lock = LOCKS / release.lock if release.lock else None
    if release.requirements:
        _check_cuda_build(release, python, lock)
        # torch first and with its dependencies: a CUDA build brings its own libraries.
        wanted = list(release.requirements)
        pip.install(release.name, python, wanted, constraint=lock, progress=progress)
    if lock is not None:
        pip.install_lock(release.name, python, lock, progress=progress)
    progress("compiling bytecode")
    bytecode.compile_bytecode(root)
    driver = stub_driver.available(release, root)
    found = _imported(release, python, driver, progress)
    engine = Engine(
        release=release,
        python=python,
        version=found.sglang,
        root=root,
        torch=found.torch,
        cuda_home=environment_probe.cuda_home(release, python),
    )
    if driver != "none":
        _keep_options(engine, progress)
    marker = InstalledEngine(
        version=1,
        release=release.name,
        sglang=found.sglang,
        torch=found.torch,
        python=platform.python_version(),
        lock_sha256=lock_hash(release),
        bytes=_tree_bytes(root),
        installed=now(),
        imported_with=driver,
    )
    write_atomic(root / MARKER, msgspec.json.encode(marker), mode=0o644)
    (root / _UNFINISHED).unlink(missing_ok=True)
    return engine


def _imported(
    release: Release, python: Path, driver: stub_driver.Driver, progress: Progress
) -> environment_probe.Versions:
    """Try the import as far as this machine allows, and say how far that is."""
    later = "`qlaunch doctor` on the machine with the GPU finishes the check"
    if driver == "none":
        progress(
            "there is no NVIDIA driver here, and no C compiler to make a stand-in for it: "
            f"the import is not tried; {later}"
        )
        return environment_probe.versions(python)
    progress("importing the engine once, so that the first start does not pay for it")
    found = environment_probe.warm_import(release, python)
    if driver == "stub":
        progress(f"imported with a stand-in for the NVIDIA driver, which is not here: {later}")
    return found


def _importable(engine: Engine) -> bool:
    assert engine.root is not None
    return stub_driver.available(engine.release, engine.root) != "none"


def _keep_options(engine: Engine, progress: Progress) -> None:
    """Store what the engine's own parser accepts; without it the shipped table serves."""
    assert engine.root is not None
    progress("reading the engine's own options")
    try:
        own_options.store(engine, engine.root)
    except (QlaunchError, OSError) as error:
        progress(f"{error}; plans are checked against the table of the release alone")


def note_import(engine: Engine) -> None:
    """Write down that an engine imports with the machine's own driver, and read its options.

    Raises:
        OSError: the marker cannot be written.
    """
    assert engine.root is not None
    data = read_bounded(engine.root / MARKER, 65_536)
    marker = msgspec.json.decode(data, type=InstalledEngine)
    if own_options.stored(engine) is None:
        _keep_options(engine, lambda _line: None)
    proved = msgspec.structs.replace(marker, imported_with="real")
    write_atomic(engine.root / MARKER, msgspec.json.encode(proved), mode=0o644)


def _same_unfinished(root: Path, release: Release) -> bool:
    try:
        data = msgspec.json.decode(read_bounded(root / _UNFINISHED, 65_536), type=dict[str, str])
    except (OSError, ValueError, msgspec.MsgspecError):
        return False
    return data.get("lock_sha256") == lock_hash(release)


def _check_exec(release: Release, engines: Path) -> None:
    if os.statvfs(engines).f_flag & os.ST_NOEXEC:
        raise QlaunchError(
            f"engine {release.name} cannot run from {engines}: that file system is mounted noexec",
            code="engine_install_failed",
            exit_code=ExitCode.ENGINE,
            fix="set QLAUNCH_HOME to a folder from which programs may run",
        )


def _check_cuda_build(release: Release, python: Path, lock: Path | None) -> None:
    """Refuse a CUDA build of torch for which there is no room.

    PyPI has no other for x86-64: CPU builds are in PyTorch's own index. Where there is room for
    both, pip is not asked which one it would take.
    """
    size, root = release.disk_bytes_cuda_build, python.parent.parent
    if size is None or _lacking(root, size, already=(already := _tree_bytes(root))) is None:
        return
    packages = pip.resolve(release.name, python, release.requirements, constraint=lock)
    if any(name.startswith(("nvidia-", "cuda-")) for name in packages):
        _check_space(release, root, size, already=already, build=" with a CUDA build of torch")


def _check_space(release: Release, root: Path, size: int, *, already: int, build: str = "") -> None:
    if (lacking := _lacking(root, size, already=already)) is None:
        return
    needed, free = lacking
    raise QlaunchError(
        f"engine {release.name}{build} needs {needed / 1e9:.1f} GB in {root.parent}, which has "
        f"{free / 1e9:.1f} GB free",
        code="disk_full",
        exit_code=ExitCode.ENGINE,
        fix="free space there, or set QLAUNCH_HOME to a folder on a larger disk"
        + ("; a CPU build comes from PyTorch's own index (PIP_EXTRA_INDEX_URL)" if build else ""),
    )


def _lacking(root: Path, size: int, *, already: int) -> tuple[int, int] | None:
    """Bytes needed and bytes free for an environment of `size`; None where there is room."""
    free = shutil.disk_usage(root.parent).free
    needed = size + _SPARE_BYTES - already
    return (needed, free) if free < needed else None


def _tree_bytes(root: Path) -> int:
    total = 0
    for folder, _names, files in os.walk(root):
        for name in files:
            with contextlib.suppress(OSError):
                total += (Path(folder) / name).lstat().st_blocks * 512
    return total


def _remove_tree(root: Path) -> None:
    try:
        # The marker first: whatever happens on the way, a half-removed environment is not whole.
        (root / MARKER).unlink(missing_ok=True)
        shutil.rmtree(root)
    except OSError as error:
        raise QlaunchError(
            f"cannot remove {error.filename or root}: {error.strerror}",
            code="engine_remove_failed",
            exit_code=ExitCode.UNEXPECTED,
            fix="remove that folder by hand",
        ) from error


@contextlib.contextmanager
def _locked(path: Path, release: Release, progress: Progress) -> Iterator[None]:
    def waiting() -> None:
        progress(f"another install of {release.name} is running: waiting for it")

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locks.held(path, waiting))
        except OSError as error:
            raise _failed(release, f"cannot lock {path}: {error.strerror}") from error
        yield


def _failed(release: Release, why: str) -> QlaunchError:
    return QlaunchError(
        f"engine {release.name} cannot be installed: {why}",
        code="engine_install_failed",
        exit_code=ExitCode.ENGINE,
        fix="make that path writable, or set QLAUNCH_HOME to a folder of your own",
    )
