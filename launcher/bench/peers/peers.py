"""Other servers of embeddings, for comparisons: a small catalogue, each in its own environment."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from launcher import pip_settings
from launcher.engine.environments import pip
from launcher.engine.release import Release
from launcher.errors import ExitCode, QlaunchError
from launcher.linux import locks
from launcher.linux.files import read_bounded, write_atomic

Progress = Callable[[str], None]

_HERE: Final = Path(__file__).resolve().parent
MARKER: Final = "installed.json"
LOCKS: Final = _HERE / "locks"
WORKER: Final = _HERE / "peer_worker.py"
PeerDtype = Literal["float32", "bfloat16", "float16"]


class Peer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of `launcher/bench/peers/peers.yaml`."""

    name: str = ""
    """The entry's key."""
    title: str
    package: str
    version: str
    python: str
    """Python versions it installs on, as a specifier."""
    requirements: tuple[str, ...]
    """Installed first, with their dependencies."""
    then: tuple[str, ...]
    """Installed after them, within the lock."""
    lock: str
    """File under `launcher/bench/peers/locks/`: constraints for pip."""
    disk_bytes: int
    start: tuple[str, ...]
    """Command, with `{bin}`, `{python}`, `{worker}`, `{model_path}`, `{model}`, `{dtype}` and
    `{port}` to be filled in."""
    env: dict[str, str] = {}
    counts_tokens: bool = True
    """Whether the `usage` of its answers counts tokens."""
    dtypes: tuple[PeerDtype, ...]


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """`installed.json`: written last, so its presence says the environment is whole."""

    name: str
    version: str
    identity: str


@functools.cache
def peers() -> Mapping[str, Peer]:
    """Every peer of the catalogue, by name."""
    from launcher.yaml_reader import load_typed

    loaded = load_typed(_HERE / "peers.yaml", dict[str, Peer], what="catalogue of peers")
    return {name: msgspec.structs.replace(peer, name=name) for name, peer in loaded.value.items()}


def command(
    peer: Peer, root: Path, *, model_path: str, model: str, dtype: str, port: int
) -> list[str]:
    """What is executed to serve a checkpoint. Pure."""
    words = {
        "bin": str(root / "bin"),
        "python": str(python(root)),
        "worker": str(WORKER),
        "model_path": model_path,
        "model": model,
        "dtype": dtype,
        "port": str(port),
    }
    return [word.format_map(words) for word in peer.start]


def environment(peer: Peer, threads: int) -> dict[str, str]:
    """Variables beside the allow-list: as many threads as the engine has, nothing fetched."""
    return {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "true",
        **peer.env,
    }


def folder(peer: Peer, data: Path) -> Path:
    """The peer's environment under the data folder; absolute, as scripts in it need it."""
    return data.absolute() / "peers" / peer.name


def python(root: Path) -> Path:
    """The environment's Python."""
    return root / "bin" / "python"


def find(peer: Peer, data: Path) -> Path | None:
    """The environment, where it is whole and of this very version."""
    root = folder(peer, data)
    try:
        found = msgspec.json.decode(read_bounded(root / MARKER, 65_536), type=Installed)
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
    return root if found.identity == identity(peer) and python(root).exists() else None


def identity(peer: Peer) -> str:
    """What an install would put in: requirements and lock."""
    digest = hashlib.sha256("\n".join((*peer.requirements, *peer.then)).encode())
    digest.update((LOCKS / peer.lock).read_bytes())
    return digest.hexdigest()


def install(peer: Peer, data: Path, *, progress: Progress) -> Path:
    """The environment's folder; made first where it is not there.

    Raises:
        QlaunchError: exit 5 with code `engine_unsupported`, `disk_full`, `engines_dir_unusable`,
            `engine_install_failed`, or what lies between us and the package index.
    """
    found = find(peer, data)
    if found is not None:
        return found
    _check(peer)
    root = folder(peer, data)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        _check_space(peer, root.parent)
        lock = root.parent / f".{peer.name}.lock"
        with locks.held(lock, lambda: progress(f"another install of {peer.name} is running")):
            return find(peer, data) or _build(peer, root, progress)
    except OSError as error:
        raise QlaunchError(
            f"{peer.name} cannot be installed in {root}: {error.strerror or error}",
            code="engine_install_failed",
            exit_code=ExitCode.ENGINE,
            fix="make that path writable, or set QLAUNCH_HOME to a folder of your own",
        ) from error


def _build(peer: Peer, root: Path, progress: Progress) -> Path:
    if (ignored := pip_settings.told(pip_settings.read(os.environ, "install"))) is not None:
        progress(ignored)
    progress(f"installing {peer.package} {peer.version} once, in {root}")
    if root.exists():
        shutil.rmtree(root)
    root.mkdir()
    release = _as_release(peer)
    pip.create_environment(release, root)
    lock = LOCKS / peer.lock
    # torch by itself: what the rest asks for must not choose another build of it.
    pip.install(release, python(root), peer.requirements, constraint=lock, progress=progress)
    pip.install(release, python(root), peer.then, constraint=lock, progress=progress)
    marker = Installed(name=peer.name, version=peer.version, identity=identity(peer))
    write_atomic(root / MARKER, msgspec.json.encode(marker), mode=0o644)
    return root


def _as_release(peer: Peer) -> Release:
    """The peer as pip's helper knows what is installed: by name."""
    return Release(
        name=peer.name,
        version=peer.version,
        title=peer.title,
        device="cpu",
        python=peer.python,
        machine=(platform.machine(),),
        start=peer.start,
        disk_bytes=peer.disk_bytes,
    )


def _check(peer: Peer) -> None:
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    version = ".".join(str(part) for part in sys.version_info[:3])
    if Version(version) not in SpecifierSet(peer.python):
        raise QlaunchError(
            f"{peer.name} {peer.version} needs Python {peer.python}, this is {version}",
            code="engine_unsupported",
            exit_code=ExitCode.ENGINE,
            fix="run qlaunch with a Python that fits",
        )


def _check_space(peer: Peer, where: Path) -> None:
    free = shutil.disk_usage(where).free
    if free < peer.disk_bytes:
        raise QlaunchError(
            f"{peer.name} needs {peer.disk_bytes / 1e9:.1f} GB in {where}, which has"
            f" {free / 1e9:.1f} GB free",
            code="disk_full",
            exit_code=ExitCode.ENGINE,
            fix="free space there, or set QLAUNCH_HOME to a folder on a larger disk",
        )
