"""Models from the Hugging Face hub and ModelScope, by their own client libraries.

Endpoints, caches, tokens and offline modes are the libraries' business: they read HF_ENDPOINT,
HF_HOME, HF_TOKEN, HF_HUB_OFFLINE, MODELSCOPE_ENDPOINT, MODELSCOPE_CACHE, MODELSCOPE_API_TOKEN.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher import child_environment, extras
from launcher.errors import ExitCode, QlaunchError
from launcher.model.download import disk_error, not_found, offline, unreachable
from launcher.model.inspect import inspect
from launcher.paths import dirs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from launcher.model.checkpoint import Source

# What serving needs. Exports for other runtimes have configs of their own in their folders.
_ALLOW = ["*.json", "*.safetensors", "*.txt", "*.model", "*.tiktoken", "*_Dense/*.bin"]
_IGNORE = ["onnx/*", "openvino/*", "coreml/*", "tflite/*", "checkpoint-*/*", "original/*", "gguf/*"]
_PAGES = {"hf": "its page on the Hugging Face hub", "modelscope": "its page on ModelScope"}
_OF_NETWORK = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL}
)
_TOKENS = {"hf": "HF_TOKEN", "modelscope": "MODELSCOPE_API_TOKEN"}


def locate_hub(source: Source) -> Path | None:
    """The folder of `source` in the library's cache, or None; touches no network."""
    try:
        folder = _snapshot(source, local_only=True)
    except Exception:  # noqa: BLE001 - each library has its own idea of "not in the cache"
        return None
    # An interrupted download by ModelScope's client leaves its folder, with the parts in it.
    return None if any(folder.rglob("*.incomplete")) else folder


def pull_hub(source: Source, *, is_offline: bool, progress: Callable[[str], None]) -> Path:
    """Fetch `source` into its library's cache and return the folder; resumes what was interrupted.

    Raises:
        QlaunchError: exit 1: `model_unreachable`, `disk_full`, `models_dir_unusable`; exit 2:
            `model_not_found`, `model_gated`, `model_unsupported` (no safetensors there),
            `extra_missing` (ModelScope's client).
    """
    if not is_offline:
        progress(f"fetching {source}")
    try:
        folder = _snapshot(source, local_only=is_offline)
    except QlaunchError:  # a library that is not installed
        raise
    except Exception as error:
        raise _explain(source, error, is_offline) from error
    if is_offline:
        _must_be_whole(source, folder)
    elif (folder / "config.json").exists() and not any(folder.glob("*.safetensors")):
        raise QlaunchError(
            f"{source} has no safetensors weights",
            code="model_unsupported",
            exit_code=ExitCode.USAGE,
            fix="use a repository or revision that has *.safetensors files",
        )
    return folder


def _must_be_whole(source: Source, folder: Path) -> None:
    """Refuse what an interrupted download left: offline, the libraries return it as it is."""
    whole = not any(folder.rglob("*.incomplete"))
    try:
        inspect(folder)
    except QlaunchError as error:
        if error.code != "model_incomplete":
            raise
        whole = False
    if not whole:
        raise unreachable(
            source,
            "only part of it is on this machine, and qlaunch is offline",
            fix="pull the model again while online",
        )


def _snapshot(source: Source, *, local_only: bool) -> Path:
    """The library's own download; what it prints goes to stderr, where progress belongs."""
    options: dict[str, Any] = {
        "revision": source.revision,
        "local_files_only": local_only,
        "allow_patterns": _ALLOW,
        "ignore_patterns": _IGNORE,
    }
    _spare_caches()
    with contextlib.redirect_stdout(sys.stderr), _bars_on_terminals_only():
        if source.kind == "hf":
            from huggingface_hub import snapshot_download

            return Path(snapshot_download(source.location, **options))
        client = extras.require("modelscope")
        return Path(client.snapshot_download(source.location, **options))


def _spare_caches() -> None:
    """Our own cache folder for users without a home of theirs; before the libraries are imported.

    They would make a folder called `~` where they are called, or write nowhere.
    """
    if child_environment.usable_home(os.environ) or os.environ.get("XDG_CACHE_HOME"):
        return
    for variable, name in (("HF_HOME", "huggingface"), ("MODELSCOPE_CACHE", "modelscope")):
        if not Path(os.path.expanduser("~"), ".cache", name).is_dir():  # noqa: PTH111 - may be "~"
            os.environ.setdefault(variable, str(dirs().cache / name))


@contextlib.contextmanager
def _bars_on_terminals_only() -> Iterator[None]:
    """Keep the libraries' progress bars out of logs; tqdm reads this when it is imported."""
    if sys.stderr.isatty() or "TQDM_DISABLE" in os.environ:
        yield
        return
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        del os.environ["TQDM_DISABLE"]


def _explain(source: Source, error: Exception, is_offline: bool) -> QlaunchError:
    """One sentence for what a hub library raised.

    By class name: the classes moved between releases, and ModelScope's wraps one in another.
    """
    chain = list(_chain(error))
    names = {kind.__name__ for one in chain for kind in type(one).__mro__}
    status = next((code for one in chain if (code := _status(one)) is not None), None)
    token = _TOKENS[source.kind]
    full = next((one for one in chain if isinstance(one, OSError) and _of_disk(one)), None)
    if "GatedRepoError" in names or status == 403:
        return QlaunchError(
            f"{source} is gated, or closed to this account",
            code="model_gated",
            exit_code=ExitCode.USAGE,
            fix=f"accept its terms on {_PAGES[source.kind]}, then set {token}",
        )
    if "RevisionNotFoundError" in names:
        return not_found(source, f"the repository has no revision {source.revision or 'main'}")
    if names & {"RepositoryNotFoundError", "NotExistError"} or status in {401, 404}:
        why = "there is no such repository or revision, or it is private"
        return not_found(source, why, fix=f"check the spelling; for a private one set {token}")
    if is_offline or names & {"OfflineModeIsEnabled", "CacheNotFound"}:
        return offline(source)
    if full is not None:
        where = Path(full.filename) if isinstance(full.filename, str) else Path.cwd()
        return disk_error(source, where if where.exists() else Path.cwd(), full)
    if any(isinstance(one, ImportError) and "socks" in str(one).lower() for one in chain):
        return unreachable(
            source,
            "the proxy is a SOCKS one, for which the hub's client lacks a package",
            fix=f"{sys.executable} -m pip install socksio PySocks, or name an http proxy",
        )
    if status is not None:
        return unreachable(source, f"the hub answered with HTTP status {status}")
    return unreachable(source, f"the hub did not answer ({type(chain[-1]).__name__})")


def _of_disk(error: OSError) -> bool:
    """Whether a file was refused, and not a connection or the name of a host."""
    if error.errno is None or isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
        return False
    return error.errno not in _OF_NETWORK


def _chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and what caused it, outermost first; also the failures of single files."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        failed = getattr(one, "failed_files", None)
        todo += [one.__cause__ or one.__context__]
        todo += list(failed.values()) if isinstance(failed, dict) else []


def _status(error: BaseException) -> int | None:
    """HTTP status an exception carries, if any."""
    for holder in (getattr(error, "response", None), error):
        code = getattr(holder, "status_code", None)
        if type(code) is int:
            return code
    return None
