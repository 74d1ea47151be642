"""What could be removed to make room, with sizes; and removing it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final, Literal, get_args

from launcher.app import usage
from launcher.documents.service_state import at_work
from launcher.engine import releases
from launcher.engine.environments import install, upgrade
from launcher.errors import QlaunchError
from launcher.linux.removal import bytes_of, discard, discarded
from launcher.model import hub_cache
from launcher.paths import Dirs
from launcher.record.prune import old_runs
from launcher.record.runs import list_runs
from launcher.service import control, store

Kind = Literal["runs", "logs", "engines", "caches", "leftovers"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
_LOGS: Final = ("engine.log*", "crash-*.log")
_WRITTEN_LATELY_S: Final = 60


@dataclass(frozen=True)
class Item:
    """One thing that can go."""

    kind: Kind
    path: Path
    bytes: int
    reason: str
    """Why it can go, in a few words."""
    used_by: tuple[str, ...] = ()
    """Who uses it, for what has to stay."""


def find(where: Dirs, *, keep: int, kinds: Iterable[Kind] = KINDS) -> list[Item]:
    """Everything of `kinds` that can go, and what would but is in use. Changes nothing.

    Args:
        where: our folders. Engines and caches behind a link are another home's too, and stay.
        keep: newest run records that stay.
        kinds: which to look for.
    """
    finders: dict[Kind, Callable[[], Iterable[Item]]] = {
        "runs": lambda: _runs(where, keep),
        "logs": lambda: _logs(where, keep),
        "engines": lambda: chain(_engines(where), _peers(where)),
        "caches": lambda: _caches(where),
        "leftovers": lambda: _leftovers(where),
    }
    return [item for kind in KINDS if kind in set(kinds) for item in finders[kind]()]


def remove(items: Iterable[Item]) -> Iterator[tuple[Item, QlaunchError | None]]:
    """Remove each item that nobody uses, asked again now; yields it, and what was in the way."""
    for item in items:
        if item.used_by:
            continue
        try:
            if item.kind in ("engines", "caches"):
                usage.refuse(item.path, str(item.path))
            discard(item.path)
        except QlaunchError as error:
            yield item, error
        else:
            yield item, None


def _live() -> frozenset[str]:
    return frozenset(state.run for state in control.services(replicas=True) if at_work(state))


def _runs(where: Dirs, keep: int) -> Iterator[Item]:
    for run in old_runs(list_runs(where.runs), keep=keep, live=_live()):
        path = where.runs / run.run
        yield Item("runs", path, bytes_of(path), f"older than the newest {keep}")


def _logs(where: Dirs, keep: int) -> Iterator[Item]:
    """Engines' logs in records that stay, but for the last run of each service."""
    runs = [run for run in list_runs(where.runs) if run.run not in _live()][:keep]
    last: dict[str | None, str] = {}
    for run in runs:
        last.setdefault(run.service, run.run)
    for run in runs:
        if last[run.service] == run.run:
            continue
        for pattern in _LOGS:
            for path in sorted((where.runs / run.run).glob(pattern)):
                yield Item("logs", path, bytes_of(path), "of a run that is not its service's last")


def _engines(where: Dirs) -> Iterator[Item]:
    """Whole environments that no service known here was started with."""
    if where.engines.is_symlink() or not where.engines.is_dir():
        return
    needed = {release for name in store.list_services() if (release := _release_of(name))}
    known = releases.releases()
    for path in sorted(where.engines.iterdir()):
        if path.name.startswith(".") or path.is_symlink() or not path.is_dir():
            continue
        if path.name in known and path.name in needed:
            continue
        whole = (path / install.MARKER).exists()
        why = "no service uses it" if path.name in known else "no release has that name"
        if whole or path.name not in known:
            yield Item("engines", path, bytes_of(path), why, usage.of(path))


def _peers(where: Dirs) -> Iterator[Item]:
    """Other servers that `compare` installed, and the quantiser."""
    kinds = {
        "peers": "a server for comparisons, installed again when asked for",
        "tools": "what `model quantize` works with, installed again when asked for",
    }
    for name, why in kinds.items():
        folder = where.data / name
        if folder.is_symlink() or not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            if not path.name.startswith(".") and path.is_dir() and not path.is_symlink():
                yield Item("engines", path, bytes_of(path), why, usage.of(path))


def _release_of(service: str) -> str | None:
    try:
        return store.read_plan(store.folder(service)).engine.release
    except QlaunchError:
        return None


def _caches(where: Dirs) -> Iterator[Item]:
    if where.cache.is_symlink() or not where.cache.is_dir():
        return
    users = tuple(state.service for state in control.services() if at_work(state))
    for path in sorted(where.cache.iterdir()):
        if not path.name.startswith(".") and not path.is_symlink():
            why = "is computed again when needed"
            if path.name == "gateway":
                why = "the gateway's vectors, computed again when asked for"
            yield Item("caches", path, bytes_of(path), why, users or usage.of(path))


def _leftovers(where: Dirs) -> Iterator[Item]:
    """What interrupted removals, installs and downloads left."""
    why = "left by an interrupted removal"
    folders = (where.services, where.runs, where.engines, where.models, where.cache)
    for folder in folders:
        if folder.is_symlink() or not folder.is_dir():
            continue
        for path in discarded(folder):
            yield Item("leftovers", path, bytes_of(path), why)
    if where.models.is_dir() and not where.models.is_symlink():
        for path in sorted(where.models.glob(".*.partial")):
            users = usage.of(path)
            yield Item("leftovers", path, bytes_of(path), "an interrupted download", users)
    yield from _half_downloads()
    if where.engines.is_dir() and not where.engines.is_symlink():
        yield from _half_engines(where.engines)


def _half_downloads() -> Iterator[Item]:
    """Parts of files in the Hugging Face library's cache that its next download does not use."""
    why = "an interrupted download from a hub"
    for path, is_locked in hub_cache.partials():
        try:  # some network file systems let everyone lock
            age_s = time.time() - path.stat().st_mtime  # below 0: its clock was ahead
            is_busy = is_locked or abs(age_s) < _WRITTEN_LATELY_S
        except FileNotFoundError:
            continue
        users = ("a download that runs",) if is_busy else ()
        yield Item("leftovers", path, bytes_of(path), why, users)


def _half_engines(engines: Path) -> Iterator[Item]:
    for release in releases.releases().values():
        path = install.environment_dir(engines, release)
        aside = upgrade.aside(engines, release)
        whole = install.find(release, engines) is not None
        if aside.is_dir() and whole:
            yield Item("leftovers", aside, bytes_of(aside), "replaced by an upgrade")
        if path.is_dir() and not (path / install.MARKER).exists() and not aside.is_dir():
            busy = () if install.idle(release, engines) else ("an install that runs",)
            yield Item("leftovers", path, bytes_of(path), "an interrupted install", busy)
