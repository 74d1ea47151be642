"""The Hugging Face hub's cache on this machine: what lies in it, and whether it was promised.

Its layout is documented by the library: a folder a repository with `refs`, `snapshots` and `blobs`.
A snapshot's files are links to blobs, and a blob is called by the ETag of its file: the SHA-256 of
a large one, git's id of a small one. The library itself compares lengths only.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from launcher import child_environment
from launcher.linux import locks, removal
from launcher.linux.files import sha256, write_atomic
from launcher.paths import dirs
from launcher.units import size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from launcher.model.checkpoint import Source

# What serving needs. Exports for other runtimes have configs of their own in their folders.
ALLOW: Final = ["*.json", "*.safetensors", "*.txt", "*.model", "*.tiktoken", "*_Dense/*.bin"]
IGNORE: Final = [
    *("onnx/*", "openvino/*", "coreml/*", "tflite/*"),
    *("checkpoint-*/*", "original/*", "gguf/*"),
]
SMALL: Final = [*(each for each in ALLOW if each != "*.safetensors"), "*_Dense/*.safetensors"]
"""All but a model's own weights."""
_WORTH_TELLING: Final = 1e9
"""Bytes to read, from which on it takes seconds."""
_PARTIAL: Final = re.compile(r"(?P<blob>.+)\.[0-9a-f]{8}\.incomplete")
"""What an interrupted download leaves in newer releases of the library: none goes on from it."""


@dataclass(frozen=True)
class Stored:
    """A file of a snapshot."""

    name: str
    pointer: Path
    blob: Path


def spare_caches() -> None:
    """Our own cache folder for users without a home of theirs; before the libraries are imported.

    They would make a folder called `~` where they are called, or write nowhere. Hugging Face's
    cannot even be imported where one of its time limits is no whole number: its own holds then.
    """
    for limit in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        if not os.environ.get(limit, "0").strip().isdecimal():
            del os.environ[limit]
    if child_environment.usable_home(os.environ) or os.environ.get("XDG_CACHE_HOME"):
        return
    for variable, name in (("HF_HOME", "huggingface"), ("MODELSCOPE_CACHE", "modelscope")):
        if not Path(os.path.expanduser("~"), ".cache", name).is_dir():  # noqa: PTH111 - may be "~"
            os.environ.setdefault(variable, str(dirs().cache / name))


def root() -> Path:
    """The cache's folder, which need not exist."""
    spare_caches()
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def repository(source: Source) -> Path:
    """The folder of a repository with all its revisions, which need not exist."""
    return root() / f"models--{source.location.replace('/', '--')}"


def snapshot_folder(source: Source) -> Path | None:
    """The folder of a revision, whatever is in it; None where there is none."""
    folder = repository(source)
    revision = source.revision or "main"
    # Without a ref it is a commit, or a revision that was never fetched.
    with contextlib.suppress(OSError, ValueError):
        revision = (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    found = folder / "snapshots" / revision
    # Path.is_dir() raises where the cache may not be read.
    return found if os.path.isdir(found) else None  # noqa: PTH112


def blobs(source: Source) -> frozenset[str]:
    """The names of what was fetched of a repository, whole."""
    try:
        return frozenset(path.name for path in (repository(source) / "blobs").iterdir())
    except OSError:
        return frozenset()


def damaged(folder: Path, progress: Callable[[str], None]) -> list[Stored]:
    """The files of a snapshot that are not what their names promise; hashes what is new or changed.

    A name that is no hash (some mirrors give others) promises nothing.
    """
    record = _Record(folder)
    todo = [one for one in _files(folder) if not record.knows(one.blob)]
    total = sum(one.blob.stat().st_size for one in todo)
    if total >= _WORTH_TELLING:
        progress(f"comparing {size(total)} with the hub's hashes")
    wrong = []
    for one in todo:
        if _agrees(one.blob):
            record.add(one.blob)
        else:
            wrong.append(one)
    record.keep()
    return wrong


def discard(files: list[Stored]) -> None:
    """Take damaged files out of the cache, so that nobody finds them there."""
    for one in files:
        one.pointer.unlink(missing_ok=True)
        one.blob.unlink(missing_ok=True)


def begun_repository(source: Source) -> Path | None:
    """The folder of a repository of which no revision is there: its fetch was interrupted."""
    folder = repository(source)
    return folder if folder.is_dir() and not any(folder.glob("snapshots/*")) else None


def whole_repository(snapshot: Path) -> Path:
    """The folder of the repository where it has no other revision, else `snapshot` itself."""
    if snapshot.parent.name != "snapshots" or len(list(snapshot.parent.iterdir())) > 1:
        return snapshot
    return snapshot.parents[1]


def remove(snapshot: Path) -> None:
    """Remove a revision in which the library finds links to blobs that are gone, and gives up.

    Raises:
        QlaunchError: `not_removed` (exit 1).
    """
    whole = whole_repository(snapshot)
    own = {link.readlink().name for link in snapshot.rglob("*") if link.is_symlink()}
    removal.discard(whole)
    if whole != snapshot or snapshot.parent.name != "snapshots":
        return
    others = {link.readlink().name for link in snapshot.parent.rglob("*") if link.is_symlink()}
    for name in own - others:
        removal.discard(snapshot.parents[1] / "blobs" / name)


def _files(folder: Path) -> Iterator[Stored]:
    """The files of a snapshot that serving needs and whose names are hashes."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # as its own modules do
        filter_repo_objects,
    )

    links = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_symlink()}
    for name in filter_repo_objects(sorted(links), allow_patterns=ALLOW, ignore_patterns=IGNORE):
        blob = Path(os.path.normpath(links[name].parent / links[name].readlink()))
        if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name) and blob.is_file():
            yield Stored(name, links[name], blob)


def _agrees(blob: Path) -> bool:
    """Whether a file's content has the hash that it is called by; 40 digits are git's id, or the
    plain SHA-1 that some mirrors give."""
    try:
        if len(blob.name) == 64:
            return sha256(blob) == blob.name
        git = f"blob {blob.stat().st_size}\0".encode()
        return any(_sha1(blob, start) == blob.name for start in (git, b""))
    except OSError:
        return True  # `inspect` says why it cannot be read


def _sha1(file: Path, start: bytes) -> str:
    """SHA-1 of `start` and what is in the file."""
    with file.open("rb") as content:
        begun = functools.partial(hashlib.sha1, start, usedforsecurity=False)
        return hashlib.file_digest(content, begun).hexdigest()


# --- what is remembered in our own cache ----------------------------------------------------------


def _ours(name: str, ending: str) -> Path:
    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    return dirs().cache / "hub" / f"{digest}.{ending}"


class _Record:
    """Which blobs of a snapshot had the right hash: size, mtime and inode of each then."""

    def __init__(self, folder: Path) -> None:
        self._path = _ours(str(folder), "json")
        self._known: dict[str, tuple[int, int, int]] = {}
        self._is_new = False
        with contextlib.suppress(OSError, ValueError):
            kind = dict[str, tuple[int, int, int]]
            self._known = msgspec.json.decode(self._path.read_bytes(), type=kind)

    def knows(self, blob: Path) -> bool:
        return self._known.get(blob.name) == _identity(blob)

    def add(self, blob: Path) -> None:
        self._known[blob.name] = _identity(blob)
        self._is_new = True

    def keep(self) -> None:
        """Write it; where that is not possible, the hashes are computed again next time."""
        if self._is_new:
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(self._path, msgspec.json.encode(self._known))


def _identity(blob: Path) -> tuple[int, int, int]:
    found = blob.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def begin(source: Source) -> None:
    """Note that a fetch began: until `checked`, what lies there was compared with no hash."""
    with contextlib.suppress(OSError):
        path = _begun(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def checked(source: Source) -> None:
    """Note that what a fetch brought is what was promised."""
    with contextlib.suppress(OSError):
        _begun(source).unlink(missing_ok=True)


def is_unchecked(source: Source) -> bool:
    """Whether a fetch of ours ended before its files were compared with their hashes."""
    return source.kind == "hf" and _begun(source).exists()


def _begun(source: Source) -> Path:
    return _ours(f"{root()} {source}", "begun")


# --- what interrupted downloads leave -------------------------------------------------------------


def partials(folder: Path | None = None) -> Iterator[tuple[Path, bool]]:
    """Parts of files that no download goes on from, and whether one is being written.

    Args:
        folder: a repository's; None is the whole cache.
    """
    pattern = "blobs/*.incomplete"
    found = folder.glob(pattern) if folder else root().glob(f"models--*/{pattern}")
    for path in sorted(found):
        if (match := _PARTIAL.fullmatch(path.name)) is not None:
            yield path, _is_locked(path, match["blob"])


def drop_partials(source: Source) -> None:
    """Remove a repository's parts that nobody is writing."""
    for path, is_busy in partials(repository(source)):
        if not is_busy:
            with contextlib.suppress(OSError):
                path.unlink()


def _is_locked(path: Path, blob: str) -> bool:
    """Whether a download of that blob is at work: the library holds a lock meanwhile."""
    repo = path.parent.parent
    lock = repo.parent / ".locks" / repo.name / f"{blob}.lock"
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        return not locks.take(fd)
    except OSError:
        return True
    finally:
        os.close(fd)
