"""Removing a fetched model from this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.errors import ExitCode, QlaunchError
from launcher.linux.removal import bytes_of, discard
from launcher.model import hub_cache
from launcher.model.fetch import locate
from launcher.model.hub import remains

if TYPE_CHECKING:
    from collections.abc import Sequence

    from huggingface_hub import DeleteCacheStrategy

    from launcher.model.checkpoint import Source


@dataclass(frozen=True)
class Stored:
    """A fetched model on this machine."""

    source: Source
    path: Path
    bytes: int
    """What removing it frees at least: a hub's cache shares files between revisions."""


def stored(sources: Sequence[Source], *, models_dir: Path) -> tuple[Stored, ...]:
    """Every one of `sources` that is on this machine, be it damaged or in part.

    Raises:
        QlaunchError: `model_own` (exit 2): a folder of the user's own, which nobody fetched. One
            under `models_dir` was made here (`model quantize`), and is no such folder.
    """
    found: list[Stored] = []
    for source in sources:
        path = locate((source,), models_dir=models_dir) or _broken(source)
        if path is None:
            continue
        if source.kind == "path" and not path.is_relative_to(models_dir.absolute()):
            raise QlaunchError(
                f"{path} is a folder of your own: qlaunch did not fetch it",
                code="model_own",
                fix=f"remove it yourself: rm -r {path}",
            )
        found.append(Stored(source, path, _freed(source, path)))
    return tuple(found)


def remove(model: Stored) -> None:
    """Remove it; an interruption leaves it whole or gone.

    Raises:
        QlaunchError: `not_removed` (exit 1).
    """
    if model.source.kind != "hf":
        discard(model.path)
        return
    strategy = _strategy(model.path)
    if strategy is None:
        hub_cache.remove(model.path)
        return
    if strategy.repos:  # its only revision: the whole folder, which one rename takes away
        for folder in strategy.repos:
            discard(folder)
        return
    strategy.execute()
    if model.path.exists():  # the library logs what it cannot remove, and goes on
        raise QlaunchError(
            f"cannot remove {model.path}: the hub's library could not",
            code="not_removed",
            exit_code=ExitCode.UNEXPECTED,
            fix="see who owns it; what is left can be removed by hand",
        )


def _broken(source: Source) -> Path | None:
    """What lies of a hub's model on this machine, though it cannot be served."""
    if source.kind == "path" or source.kind == "package":
        return None
    found = remains(source)
    if found is None and source.kind == "hf" and source.revision is None:
        found = hub_cache.begun_repository(source)
    return found


def _freed(source: Source, path: Path) -> int:
    if source.kind == "hf" and (strategy := _strategy(path)) is not None:
        return int(strategy.expected_freed_size)
    return bytes_of(hub_cache.whole_repository(path) if source.kind == "hf" else path)


def _strategy(path: Path) -> DeleteCacheStrategy | None:
    """What the hub's library would delete for the revision in `path`; None where it knows none."""
    from huggingface_hub import scan_cache_dir

    try:
        cache = scan_cache_dir(path.parents[2])
    except (OSError, ValueError):
        return None
    revisions = [r for repo in cache.repos for r in repo.revisions]
    commits = [r.commit_hash for r in revisions if r.snapshot_path.resolve() == path.resolve()]
    return cache.delete_revisions(*commits) if commits else None
