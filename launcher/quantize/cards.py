"""The model card of a quantised checkpoint: the model's own, with how it was made and measured."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
import yaml

from launcher.errors import ExitCode, QlaunchError
from launcher.linux.files import sha256, write_atomic
from launcher.model.cards import CardFile
from launcher.model.checkpoint import Checkpoint, ModelCard
from launcher.quantize.make import Record

_MARK: Final = (
    "# Made by `qlaunch model quantize`, which replaces it when it makes the model again."
)
_HASHED: Final = ("model.safetensors", "config.json")


def path_of(name: str, cards: Path) -> Path:
    """File of the card `name` in the user's folder of cards."""
    return cards / f"{name}.yaml"


def require_free(name: str, cards: Path) -> None:
    """Refuse a name whose card somebody wrote by hand.

    Raises:
        QlaunchError: `model_card_exists` (exit 9).
    """
    path = path_of(name, cards)
    if path.exists() and not ours(path):
        raise QlaunchError(
            f"{path} is a card of your own",
            code="model_card_exists",
            exit_code=ExitCode.CONFLICT,
            fix="give another name with --name",
        )


def ours(path: Path) -> bool:
    """Whether the card in `path` was written by `write`."""
    try:
        return path.read_text("utf-8", "replace").startswith(_MARK)
    except OSError:
        return False


def write(
    name: str,
    folder: Path,
    record: Record,
    sources: tuple[Checkpoint, ModelCard | None],
    cards: Path,
) -> Path:
    """Write the card `name` of the quantised checkpoint in `folder`; returns its file.

    Args:
        sources: what it was made from, and that model's card where it has one.
        cards: the user's folder of cards.

    Raises:
        QlaunchError: `models_dir_unusable` (exit 1).
    """
    path = path_of(name, cards)
    said = msgspec.to_builtins(contents(folder, record, *sources))
    said = {key: value for key, value in said.items() if value not in (None, {})}
    text = yaml.safe_dump(said, sort_keys=False, allow_unicode=True, width=96)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, f"{_MARK}\n{text}".encode(), mode=0o644)
    except OSError as error:
        raise QlaunchError(
            f"the card {path} cannot be written: {error.strerror or error}",
            code="models_dir_unusable",
            exit_code=ExitCode.UNEXPECTED,
            fix=f"make that folder writable, or serve the folder itself: --model {folder}",
        ) from error
    return path


def remove(card: ModelCard | None) -> None:
    """Remove a card whose model is gone, if `write` wrote it."""
    if card is not None and card.file and ours(Path(card.file)):
        Path(card.file).unlink(missing_ok=True)


def contents(folder: Path, record: Record, source: Checkpoint, card: ModelCard | None) -> CardFile:
    """The card as it is written."""
    return CardFile(
        title=f"{card.title if card else source.path.name} in {record.to}, made on this machine",
        sources=[str(folder)],
        architecture=card.architecture if card else source.architectures[0],
        parameters=card.parameters if card else source.parameters,
        pooling=source.pooling,
        normalize=source.normalize,
        dimensions=source.dimensions,
        matryoshka=bool(card and card.matryoshka),
        context_length=source.context_length,
        licence=card.licence if card else "unverified",
        instruction=card.instruction if card else None,
        end_token=card.end_token if card else None,
        sha256={name: sha256(folder / name) for name in _HASHED if (folder / name).is_file()},
        shape=card.shape if card else None,
        notes=notes(record),
    )


def notes(record: Record) -> str:
    """How it was made, and what its vectors are beside float32's."""
    found = record.measured
    libraries = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    return (
        f"Made from {record.source} (fingerprint {record.source_fingerprint[:16]}) on"
        f" {record.made[:10]}: {record.title}; {libraries}."
        f" Fingerprint {record.fingerprint}."
        f" Against float32 on the CPU, {found.texts} texts: cosine {found.cosine_worst:.4f} worst,"
        f" {found.cosine_mean:.4f} mean; recall@10 {found.recall_at_10:.4f},"
        f" {found.recall_at_10_float32:.4f} in float32. Not measured on a GPU."
    )
