"""What is known of a model: its files where they are here, else its card, else a hub's metadata."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.app import candidates
from launcher.config.profile import Profile
from launcher.errors import QlaunchError
from launcher.model.cards import resolve_model
from launcher.model.checkpoint import Checkpoint, ModelCard, Source
from launcher.model.fetch import locate, not_whole, obtain, refused
from launcher.model.foreseen import from_cache
from launcher.model.inspect import inspect
from launcher.model.shape import from_card
from launcher.paths import Dirs


@dataclass(frozen=True)
class Absent:
    """Something that a start would fetch first."""

    kind: str
    """`engine` or `model`."""
    name: str
    words: str
    """One sentence: what is not here, what the plan goes by, what `up` would do."""


@dataclass(frozen=True)
class KnownModel:
    """A checkpoint as far as it is known."""

    checkpoint: Checkpoint
    card: ModelCard | None
    absent: Absent | None = None
    """None where its files are on this machine."""


@dataclass(frozen=True)
class Fetching:
    """What may be done about a model that is not here."""

    fetch: bool
    foresee: bool
    """Plan it by its card or a hub's metadata instead."""
    offline: bool
    progress: Callable[[str], None]


def known_model(
    model: str,
    where: Dirs,
    how: Fetching,
    *,
    base: Path | None = None,
    profile: Profile | None = None,
) -> KnownModel:
    """Find the model, fetch it, or foresee it.

    Args:
        model: a card's name, a folder or a source.
        base: folder that relative folders start from; None is the current directory.
        profile: what is to serve it, where that is known: it may ask for a quantised copy.

    Raises:
        QlaunchError: `model_not_found` (exit 2) where it is not here and may not be fetched, or
            where nothing is known of it; `model_unsupported` (exit 2) where what is here of it
            says that it is not served; the errors of `resolve_model`, `obtain` and `inspect`.
    """
    card, sources = resolve_model(model, where.config / "profiles" / "models", base=base)
    here = locate(sources, models_dir=where.models)
    if here is not None:
        return KnownModel(inspect(here), card)
    if (how.foresee or not how.fetch) and (error := refused(sources)) is not None:
        raise error
    if how.foresee and any(source.kind != "path" for source in sources):
        return _foreseen(model, card, sources, profile, offline=how.offline)
    if not how.fetch and not all(source.kind == "path" for source in sources):
        raise absent(model, sources)
    how.progress(f"fetching model {model}")
    fetched = obtain(
        sources,
        models_dir=where.models,
        card=card,
        offline=how.offline,
        progress=how.progress,
    )
    return KnownModel(fetched, card)


def not_here(model: str, fix: str | None = None) -> QlaunchError:
    """The error for a model that is not on this machine."""
    return QlaunchError(
        f"model {model} is not on this machine",
        code="model_not_found",
        fix=fix or f"qlaunch model pull {model}",
    )


def absent(model: str, sources: Sequence[Source], fix: str | None = None) -> QlaunchError:
    """The error for a model that cannot be used from this machine: not here, or damaged here."""
    error = not_whole(sources)
    if error is None:
        return not_here(model, fix)
    return QlaunchError(
        f"model {model} is not whole on this machine: {error.message}",
        code=error.code,
        fix=f"qlaunch model pull {model}",
    )


def _foreseen(
    model: str,
    card: ModelCard | None,
    sources: Sequence[Source],
    profile: Profile | None,
    *,
    offline: bool,
) -> KnownModel:
    """The model before it is here.

    Raises:
        QlaunchError: `model_not_found` (exit 2) where nobody knows its sizes.
    """
    by, facts = "its model card", card
    if card is None or card.shape is None:
        cached = (found for source in sources if (found := from_cache(source)) is not None)
        by, facts = "the hub's metadata in this machine's cache", next(cached, None)
    checkpoint = None
    if facts is not None:
        checkpoint = candidates.sizes(facts, profile) if profile else from_card(facts)
    damage = not_whole(sources)
    if checkpoint is None and damage is not None:
        raise absent(model, sources)
    if checkpoint is None:
        raise QlaunchError(
            f"model {model} is not on this machine, and nothing is known of it: no model card"
            " gives its sizes, and no hub's metadata are in the cache",
            code="model_not_found",
            fix=f"qlaunch model pull {model}",
        )
    source = next(source for source in sources if source.kind != "path")
    then = f"`up` {'would fetch' if offline else 'fetches'} it from {source}"
    then += ", and --offline forbids that" if offline else ""
    words = f"model {model} is not on this machine: planned from {by}; {then}"
    if damage is not None:
        words = (
            f"model {model} is not whole on this machine ({damage.message}): planned from {by};"
            f" `qlaunch model pull {model}` mends it"
        )
    return KnownModel(checkpoint, card or facts, Absent("model", model, words))
