"""What the word after `up` or `plan` means: a profile, or a model of which the profile follows.

`up ./my-model`, `up hf:ORG/NAME` and `up CARD` take the best profile for this machine with that
model; a name that is a profile's always means the profile.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from launcher.config.loading import SUFFIXES, find_profile
from launcher.errors import QlaunchError
from launcher.linux.files import absent
from launcher.model.cards import list_cards
from launcher.model.checkpoint import ModelCard, Source
from launcher.model.naming import service_name
from launcher.model.source import looks_like_repository, meant, parse_source
from launcher.yaml_messages import shown

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


@dataclass(frozen=True)
class Subject:
    """Either a profile's name, or a model with the name its service gets."""

    profile: str | None = None
    model: str | None = None
    """As settings take it: a card's name, an absolute folder, or a source."""
    service: str | None = None
    note: str | None = None
    """A sentence for the user, where the word could mean something else too."""


def subject(word: str, profiles: Path) -> Subject:
    """Read the word.

    Args:
        word: as it was typed.
        profiles: the user's folder of profiles; their cards are in `models` below it.

    Raises:
        QlaunchError: `profile_unknown`, `model_not_found` or `model_source_invalid` (exit 2).
    """
    if word.endswith(SUFFIXES) and not Path(word).is_dir():
        return Subject(profile=word)
    if _SCHEME.match(word):
        return _of_source(parse_source(word), profiles)
    if "/" in word or word in {".", ".."} or word.startswith("~"):
        return _of_source(_folder(word), profiles)
    return _of_name(word, profiles)


def _of_name(word: str, profiles: Path) -> Subject:
    """A word without a slash: a profile, else a model card, else a folder here."""
    is_folder = bool(word) and "\0" not in word and Path(word).is_dir()
    try:
        find_profile(word, profiles)
    except QlaunchError:
        cards = [card.name for card in list_cards(profiles / "models")]
        if word in cards:
            return Subject(model=word, service=service_name(_named(word)))
        if is_folder:
            return _of_source(parse_source(f"./{word}"), profiles)
        if word.lower() in cards:
            raise _card_in_small_letters(word) from None
        raise
    note = None
    if is_folder:
        note = f"`{word}` is a profile, and is taken as one; the folder of that name is ./{word}"
    return Subject(profile=word, note=note)


def _card_in_small_letters(word: str) -> QlaunchError:
    """A card's name as the model's makers write it."""
    return QlaunchError(
        f"there is no profile `{shown(word)}`; did you mean the model `{word.lower()}`?",
        code="profile_unknown",
        fix="`qlaunch model list` shows the model cards, `qlaunch profiles list` the profiles",
    )


def _folder(word: str) -> Source:
    """The folder that a path names.

    Raises:
        QlaunchError: `model_not_found` (exit 2).
    """
    source = parse_source(word)
    path = Path(source.location)
    if path.is_dir():
        return source
    if path.exists():
        why, fix = "is a file", "a profile's file ends in .yaml, and a model is a folder"
        if (path.parent / "config.json").is_file():
            fix = f"give its folder: {shlex.quote(str(path.parent))}"
    elif path.is_symlink():
        why, fix = absent(path), "mend the link, or give the folder itself"
    elif (better := meant(word)) is not None:
        why, fix = "does not exist", f"for the repository on the hub write {better}"
    elif looks_like_repository(word):
        why = "does not exist"
        fix = f"for the repository of that name on a hub write hf:{word} or modelscope:{word}"
    else:
        why, fix = "does not exist", "check the path; `qlaunch profiles list` shows every profile"
    raise QlaunchError(
        f"{shown(source.location, 400)} {why}",
        code="model_not_found",
        fix=fix,
    )


def _of_source(source: Source, profiles: Path) -> Subject:
    """A model by its source; by its card where one names the very source."""
    card = None if source.kind == "path" else card_of(source, profiles / "models")
    if card is not None:
        return Subject(model=card.name, service=service_name(source))
    return Subject(model=str(source), service=service_name(source))


def card_of(source: Source, cards: Path) -> ModelCard | None:
    """The card one of whose sources is `source`."""

    def same(other: Source) -> bool:
        return (other.kind, other.location.lower(), other.revision) == (
            source.kind,
            source.location.lower(),
            source.revision,
        )

    return next((card for card in list_cards(cards) if any(map(same, card.sources))), None)


def _named(name: str) -> Source:
    return Source(kind="package", location=name)


def given_once(found: Subject, given: object | None, word: str) -> None:
    """Refuse a model that is given twice.

    Raises:
        QlaunchError: `usage` (exit 2).
    """
    if found.model is None or given is None:
        return
    raise QlaunchError(
        f"two models are given: {shown(word)} and --model {shown(str(given))}",
        code="usage",
        fix="give one of them, or a profile and --model",
    )
