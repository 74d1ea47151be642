"""Model cards: facts about models, shipped in `profiles/models/` or written by the user."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated

import msgspec

from launcher.errors import QlaunchError
from launcher.model.checkpoint import ModelCard, Pooling, Shape, Source
from launcher.model.source import looks_like_repository, parse_source, trimmed
from launcher.paths import NAME
from launcher.yaml_reader import Loaded, did_you_mean, load_typed, shown

_Count = Annotated[int, msgspec.Meta(ge=1)]
_Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]


class CardFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A card as written: `ModelCard` with its sources as text, its name being the file's."""

    title: str
    sources: Annotated[list[str], msgspec.Meta(min_length=1)]
    """In the order to try: `hf:…`, `modelscope:…`, `package:…`, or a folder."""
    architecture: str
    """Class name in the checkpoint's config.json."""
    parameters: _Count
    """Elements of all weights."""
    pooling: Pooling
    normalize: bool
    dimensions: _Count
    """Width of a served vector."""
    context_length: _Count
    """Tokens the model has positions for."""
    licence: str
    """SPDX identifier, or `unverified`."""
    instruction: str | None = None
    """Template for queries, with `{task}` and `{query}`; left out where texts go in as they are."""
    end_token: str | None = None
    """Token the model was trained to end every text with, which its tokenizer must append; empty
    where it must append none."""
    matryoshka: bool = False
    """Trained so that vectors may be cut to fewer dimensions and normalised again."""
    sha256: dict[str, _Digest] = {}
    """Hash by file name relative to the model folder, checked after unpacking a package."""
    shape: Shape | None = None
    """Sizes of the architecture, from its config.json."""
    notes: str | None = None


def load_card(name: str, user_dir: Path | None) -> ModelCard:
    """The card called `name`; a card of the user's own hides a shipped one of the same name.

    Args:
        user_dir: the user's folder of cards (`profiles/models` under the configuration).

    Raises:
        QlaunchError: `model_unknown` (exit 2, with the nearest names), or `model_card_invalid`
            (exit 2, with file and line).
    """
    paths = _paths(user_dir)
    if name not in paths:
        raise QlaunchError(
            f"there is no model card '{shown(name)}'{did_you_mean(name, paths)}",
            code="model_unknown",
            fix="`qlaunch model list` shows the cards; a folder is written with a slash (./NAME)",
        )
    return _read(name, paths[name])


def list_cards(user_dir: Path | None) -> tuple[ModelCard, ...]:
    """All cards, sorted by name; raises `model_card_invalid` (exit 2) for the first broken one."""
    return tuple(_read(name, path) for name, path in sorted(_paths(user_dir).items()))


def resolve_model(
    text: str, user_dir: Path | None, *, base: Path | None = None
) -> tuple[ModelCard | None, tuple[Source, ...]]:
    """What the user means by `text`: the name of a card, or a source.

    Args:
        base: folder that relative folders start from; None is the current directory.

    Returns:
        The card and its sources in the order to try, or None and the one source.

    Raises:
        QlaunchError: exit 2: `model_unknown`, `model_card_invalid`, `model_source_invalid`, or
            `model_not_found` for a folder that is absent but reads like a hub's ORG/NAME.
    """
    text = trimmed(text)
    if text and not set(text) & set("/:~@") and text not in {".", ".."}:
        folder = (base or Path.cwd()) / text
        if text not in _paths(user_dir) and folder.is_dir():
            return None, (Source(kind="path", location=str(folder.absolute())),)
        card = load_card(text, user_dir)
        return card, card.sources
    source = parse_source(text, base=base)
    if looks_like_repository(text) and not Path(source.location).exists():
        raise QlaunchError(
            f"there is no folder {shown(source.location, 400)}",
            code="model_not_found",
            fix=f"for the repository of that name on a hub write hf:{text} or modelscope:{text}",
        )
    return None, (source,)


def shipped_cards() -> Path:
    """The folder of cards that come with qlaunch: in the wheel, else in the source tree."""
    package = Path(__file__).parents[1]
    in_wheel = package / "_profiles" / "models"
    return in_wheel if in_wheel.is_dir() else package.parent / "profiles" / "models"


def _paths(user_dir: Path | None) -> dict[str, Path]:
    """Card files by name; the user's own after the shipped ones, so that they win."""
    folders = [shipped_cards(), *([user_dir] if user_dir else [])]
    files = [path for folder in folders for path in sorted(folder.glob("*.yaml"))]
    return {path.stem: path for path in files if NAME.fullmatch(path.stem)}


def _read(name: str, path: Path) -> ModelCard:
    loaded = load_typed(path, CardFile, what="model card", code="model_card_invalid")
    file = loaded.value
    for relative in file.sha256:
        parts = PurePosixPath(relative).parts
        if not parts or parts[0] == "/" or ".." in parts:
            raise _invalid(path, loaded, ("sha256", relative), "names a file outside the model")
    if file.instruction is not None and "{query}" not in file.instruction:
        raise _invalid(path, loaded, ("instruction",), "has no {query} in it")
    fields = {key: getattr(file, key) for key in CardFile.__struct_fields__ if key != "sources"}
    return ModelCard(name=name, sources=_sources(path, loaded), file=str(path), **fields)


def _sources(path: Path, loaded: Loaded[CardFile]) -> tuple[Source, ...]:
    found: list[Source] = []
    for number, text in enumerate(loaded.value.sources):
        try:
            found.append(parse_source(text, base=path.parent))
        except QlaunchError as error:
            raise _invalid(
                path, loaded, ("sources", number), error.message, fix=error.fix
            ) from error
    return tuple(found)


def _invalid(
    path: Path,
    loaded: Loaded[CardFile],
    where: tuple[str | int, ...],
    why: str,
    *,
    fix: str | None = None,
) -> QlaunchError:
    key = where[0] if len(where) == 1 else None
    said = f"`{key}` {why}" if key else why
    return QlaunchError(
        f"model card {shown(str(path), 400)}:{loaded.line(where)}: {said}",
        code="model_card_invalid",
        fix=fix,
    )
