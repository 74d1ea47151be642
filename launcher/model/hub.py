"""Models from the Hugging Face hub and ModelScope, by their own client libraries.

Endpoints, caches, tokens and offline modes are the libraries' business: they read HF_ENDPOINT,
HF_HOME, HF_TOKEN, HF_HUB_OFFLINE, MODELSCOPE_ENDPOINT, MODELSCOPE_CACHE, MODELSCOPE_API_TOKEN.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from launcher import extras
from launcher.errors import ExitCode, QlaunchError
from launcher.model import hub_cache
from launcher.model.download import (
    corrupt,
    disk_error,
    network_error,
    not_found,
    offline,
    unreachable,
)
from launcher.model.files import visible
from launcher.model.inspect import check_files, inspect
from launcher.network import address, classify, hubs
from launcher.network.causes import HUGGING_FACE, MODELSCOPE, Cause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from launcher.model.checkpoint import Source

_PAGES = {"hf": "its page on the Hugging Face hub", "modelscope": "its page on ModelScope"}
_CLIENTS = {"hf": HUGGING_FACE, "modelscope": MODELSCOPE}


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the process that fetches says at its end, on the last line of its stdout."""

    folder: str | None = None
    error: str = ""
    """Code, exit code, sentence and fix of the error; where there is no folder."""
    exit_code: int = 1
    message: str = ""
    fix: str | None = None


def locate_hub(source: Source) -> Path | None:
    """The folder of `source` in the library's cache, or None; touches no network."""
    folder = remains(source)
    if folder is not None and source.kind == "hf":
        folder = _cached(source)  # its client knows what is missing, and takes long to import
    # An interrupted download by ModelScope's client leaves its folder, with the parts in it.
    return None if folder is None or any(folder.rglob("*.incomplete")) else folder


def remains(source: Source) -> Path | None:
    """The folder of `source` in its library's cache, whatever is in it, or None."""
    if source.kind == "hf":
        return hub_cache.snapshot_folder(source)
    return _cached(source) if _has_modelscope_cache() else None


def _cached(source: Source) -> Path | None:
    """The folder that the library itself finds in its cache, or None."""
    try:
        return _snapshot(source, local_only=True)
    except Exception:  # noqa: BLE001 - each library has its own idea of "not in the cache"
        return None


def _has_modelscope_cache() -> bool:
    """Whether anything may be cached; asked where nothing is, ModelScope's client makes its
    folders and a session, also for what only prints."""
    hub_cache.spare_caches()
    said = os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope"
    return os.path.isdir(os.path.expanduser(said))  # noqa: PTH111, PTH112 - may be "~"


def pull_hub(source: Source, *, is_offline: bool, progress: Callable[[str], None]) -> Path:
    """Fetch `source` into its library's cache and return the folder, what is damaged there again.

    What was fetched whole is kept when a fetch is interrupted; ModelScope's client also goes on
    within a file, the newer ones of Hugging Face begin it again.

    Raises:
        QlaunchError: exit 1: what lies between us and the hub (`launcher.network.causes`),
            `model_unreachable`, `disk_full`, `models_dir_unusable`; exit 2: `unauthorized`,
            `forbidden`, `model_not_found`, `model_gated`, `model_unsupported` (no safetensors
            there), `model_corrupt` (other bytes than the hub's hashes promise), `extra_missing`
            (ModelScope's client).
    """
    if is_offline:
        folder = snapshot(source, local_only=True)
        _must_be_whole(source, folder)
        _must_be_as_promised(source, folder, progress)
        return folder
    progress(f"fetching {source}")
    if source.kind == "modelscope":
        extras.require("modelscope")
        folder = _in_a_child(source)
        _must_hold_a_file(source, folder)
    else:
        folder = _from_hugging_face(source, progress)
    is_hf = source.kind == "hf" and source.revision is None
    is_known = not folder.is_dir() or (folder / "config.json").exists()
    if is_known and not visible(folder, "*.safetensors"):
        raise QlaunchError(
            f"{source} has no safetensors weights",
            code="model_unsupported",
            fix="take a revision that has *.safetensors files"
            + (f": the hub's converter often offers one, {source}@refs/pr/N" if is_hf else ""),
        )
    return folder


def _must_hold_a_file(source: Source, folder: Path) -> None:
    """Refuse what ModelScope's client makes of an answer without files, `{}` for one: a folder."""
    if any(path.is_file() for path in folder.rglob("*")):
        return
    client, place = _CLIENTS[source.kind], address.shown(hubs.endpoint(source.kind))
    raise QlaunchError(
        f"{source} has no file that serving needs, or what answers at {place} is not the hub",
        code="model_unsupported",
        fix=f"check the spelling of the model and of its revision, and {client.address}",
    )


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


def _from_hugging_face(source: Source, progress: Callable[[str], None]) -> Path:
    """Fetch, and compare what came with the hub's hashes: its library looks at lengths only.

    The library takes each file that is there already for a good one, too: what of that is damaged
    is fetched again. What came damaged just now leaves the cache, where others would find it.
    """
    before = hub_cache.blobs(source)
    hub_cache.begin(source)
    try:
        folder = _in_a_child(source)
        wrong = hub_cache.damaged(folder, progress)
        again = [one for one in wrong if one.blob.name in before]
        if again and len(again) == len(wrong):
            names = ", ".join(one.name for one in again)
            progress(f"damaged in the hub's cache, fetched again: {names}")
            _in_a_child(source, [one.name for one in again])
            wrong = hub_cache.damaged(folder, progress)
        if wrong:
            hub_cache.discard(wrong)
            raise _not_as_promised(source, wrong)
        came = any(folder.parent.glob("*"))  # else it has no file that serving needs
        if came and locate_hub(replace(source, revision=folder.name)) is None:
            raise unreachable(  # the rest lies in the folder of another commit
                source,
                "the hub changed this revision while it was fetched",
                fix="run it again: the files that came whole are kept",
            )
        hub_cache.checked(source)
    finally:
        hub_cache.drop_partials(source)
    return folder


def _not_as_promised(source: Source, files: list[hub_cache.Stored]) -> QlaunchError:
    names = ", ".join(one.name for one in files)
    detail = f"{names}: its content has another hash than the hub gives"
    cause = Cause("download_corrupt", hubs.endpoint(source.kind), detail)
    return network_error(source, cause, _CLIENTS[source.kind])


def _must_be_as_promised(source: Source, folder: Path, progress: Callable[[str], None]) -> None:
    """Refuse damaged files where none can be fetched."""
    if source.kind != "hf":
        return
    if wrong := hub_cache.damaged(folder, progress):
        names = ", ".join(one.name for one in wrong)
        raise corrupt(
            source,
            f"{names} in the hub's cache is damaged, and qlaunch is offline",
            fix=f"qlaunch model pull {source}, while online",
        )
    hub_cache.checked(source)


def _in_a_child(source: Source, again: Sequence[str] = ()) -> Path:
    """Fetch in a process that can be ended: the libraries' threads go on to the end of their files.

    Args:
        again: files to fetch though they are there.
    """
    argv = [sys.executable, "-P", "-m", "launcher.model.hub_worker", str(os.getpid())]
    wanted = [source.kind, source.location, source.revision or ""]
    with subprocess.Popen(
        [*argv, *wanted, *again],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        try:
            out, _ = child.communicate()
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            raise
    try:
        # What else is on its stdout was written by a library past Python's own.
        outcome = msgspec.json.decode(out.rpartition(b"\n")[2], type=Outcome)
    except ValueError as error:
        how = f"signal {-child.returncode}" if child.returncode < 0 else f"exit {child.returncode}"
        raise unreachable(source, f"the hub's client ended without an answer ({how})") from error
    if outcome.folder is None:
        exit_code = ExitCode(outcome.exit_code)
        raise QlaunchError(
            outcome.message, code=outcome.error, exit_code=exit_code, fix=outcome.fix
        )
    return Path(outcome.folder)


def snapshot(source: Source, *, local_only: bool, again: Sequence[str] = ()) -> Path:
    """The folder of `source` in its library's cache, fetched there unless `local_only`.

    Args:
        again: files of a Hugging Face repository to fetch though they are there.

    Raises:
        QlaunchError: see `pull_hub`.
    """
    try:
        if not local_only and not again:
            _check_small(source)
        folder = _snapshot(source, local_only=local_only)
        if again:
            _force(source, folder.name, again)
    except QlaunchError:  # a library that is not installed
        raise
    except Exception as error:
        raise _explain(source, error, local_only) from error
    return folder


def _check_small(source: Source) -> None:
    """Refuse what cannot be served before its weights are fetched: gigabytes, and minutes.

    Files that came damaged or are gone say nothing: they are fetched again with the rest.
    """
    folder = _snapshot(source, local_only=False, wanted=hub_cache.SMALL)
    if not any((folder / name).exists() for name in ("config.json", "modules.json")):
        return
    if any(path.is_symlink() and not path.exists() for path in folder.rglob("*")):
        return
    if source.kind == "modelscope" or not hub_cache.damaged(folder, lambda _: None):
        check_files(folder)


def _snapshot(source: Source, *, local_only: bool, wanted: Sequence[str] = hub_cache.ALLOW) -> Path:
    """The library's own download; what it prints goes to stderr, where progress belongs."""
    options: dict[str, Any] = {
        "revision": source.revision,
        "local_files_only": local_only,
        "allow_patterns": list(wanted),
        "ignore_patterns": hub_cache.IGNORE,
    }
    hub_cache.spare_caches()
    with contextlib.redirect_stdout(sys.stderr), _bars_on_terminals_only():
        if source.kind == "hf":
            from huggingface_hub import snapshot_download

            if not local_only:
                _give_up_on_silence()
            return Path(snapshot_download(source.location, **options))
        client = extras.require("modelscope")
        return Path(client.snapshot_download(source.location, **options))


def _force(source: Source, commit: str, names: Sequence[str]) -> None:
    """Fetch single files again; each replaces the one that is there when it has come whole."""
    from huggingface_hub import hf_hub_download

    with contextlib.redirect_stdout(sys.stderr), _bars_on_terminals_only():
        for name in names:
            hf_hub_download(source.location, name, revision=commit, force_download=True)


def _give_up_on_silence() -> None:
    """Limit how long the hub's client waits for a silent hub: its first question has no limit.

    Only where it speaks through httpx; in releases before 1.0 requests brings limits.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]  # documented there

    limit_s = constants.HF_HUB_DOWNLOAD_TIMEOUT

    def limit(request: Any) -> None:
        asked = request.extensions.get("timeout") or {}
        kinds = ("connect", "read", "write", "pool")
        request.extensions["timeout"] = {kind: asked.get(kind) or limit_s for kind in kinds}

    session: Any = get_session()
    if hasattr(session, "event_hooks"):
        hooks = session.event_hooks
        session.event_hooks = {**hooks, "request": [*hooks.get("request", []), limit]}


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
    links = list(classify.chain(error))
    names = {kind.__name__ for one in links for kind in type(one).__mro__}
    if (refused := _refused(source, names, links)) is not None:
        return refused
    if is_offline or names & {"OfflineModeIsEnabled", "CacheNotFound"}:
        return offline(source)
    if (full := classify.disk_error(error)) is not None:
        place = Path(full.filename) if isinstance(full.filename, str) else Path.cwd()
        return disk_error(source, place if place.exists() else Path.cwd(), full)
    if any(isinstance(one, ImportError) and "socks" in str(one).lower() for one in links):
        return unreachable(
            source,
            "the proxy is a SOCKS one, for which the hub's client lacks a package",
            fix=f"{sys.executable} -m pip install socksio PySocks, or name an http proxy",
        )
    cause = classify.of_exception(error, hubs.endpoint(source.kind))
    if cause is None:
        return unreachable(source, f"the hub's client failed ({type(links[-1]).__name__})")
    return network_error(source, cause, _CLIENTS[source.kind])


def _refused(source: Source, names: set[str], links: list[BaseException]) -> QlaunchError | None:
    """The hub's own answer, where it gave one about this repository."""
    status = next((code for one in links if (code := classify.status_of(one)) is not None), None)
    token = _CLIENTS[source.kind].token
    if "GatedRepoError" in names or (status == 403 and source.kind == "modelscope"):
        return QlaunchError(
            f"{source} is gated, or closed to this account (HTTP 403)",
            code="model_gated",
            fix=f"accept its terms on {_PAGES[source.kind]}, then set {token}",
        )
    if "RevisionNotFoundError" in names:
        return not_found(source, f"the repository has no revision {source.revision or 'main'}")
    gone = names & {"EntryNotFoundError", "RemoteEntryNotFoundError"} and status == 404
    if gone and "LocalEntryNotFoundError" not in names:
        return not_found(source, "the hub lists a file of it that it does not have")
    if names & {"RepositoryNotFoundError", "NotExistError"} or status == 404:
        why = "there is no such repository or revision, or it is private"
        variable = _CLIENTS[source.kind].address
        mirror = f", and {variable}" if os.environ.get(variable) else ""
        fix = f"check the spelling{mirror}; for a private one set {token}"
        return not_found(source, why, fix=fix)
    return None
