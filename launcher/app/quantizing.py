"""From a model as the user names it to a quantised copy with a card."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from launcher.app import usage
from launcher.app.prepare import profiles_dir
from launcher.engine import support
from launcher.engine.environments import tools
from launcher.errors import ExitCode, QlaunchError
from launcher.hardware import memory
from launcher.model.cards import resolve_model
from launcher.model.checkpoint import Checkpoint, ModelCard
from launcher.model.fetch import obtain
from launcher.paths import dirs
from launcher.quantize import cards, environment, make
from launcher.quantize.formats import Format
from launcher.units import size
from launcher.verify.instruction import Wording

_BYTES_A_PARAMETER: Final = 6
"""Four in float32, one or less of the copy, and room for one layer's work."""
_LIBRARIES: Final = 1_000_000_000


@dataclass(frozen=True)
class Quantized:
    """What there is now."""

    name: str
    path: Path
    card: Path
    record: make.Record
    wanted: Format
    made: bool
    """Whether it was made by this call; else it was here."""


def limits(wanted: Format, cosine: float | None, recall_loss: float | None) -> Format:
    """`wanted` with the user's own limits; one cosine holds the worst and the mean."""
    if cosine is not None:
        wanted = dataclasses.replace(wanted, worst_cosine=cosine, mean_cosine=cosine)
    if recall_loss is not None:
        wanted = dataclasses.replace(wanted, recall_loss=recall_loss)
    return wanted


def quantize(
    model: str,
    wanted: Format,
    *,
    name: str | None,
    again: bool,
    offline: bool,
    progress: Callable[[str], None],
) -> Quantized:
    """Make the copy, or say that it is here.

    Raises:
        QlaunchError: as `make.make`, `tools.install` and `obtain`; `model_card_exists` (exit 9).
    """
    where = dirs()
    own_cards = profiles_dir(where) / "models"
    card, sources = resolve_model(model, own_cards)
    source = obtain(sources, models_dir=where.models, card=card, offline=offline, progress=progress)
    support.require_any(source)
    make.check(source, wanted)
    _check_memory(source)
    name = name or default_name(card, source, wanted)
    cards.require_free(name, own_cards)
    target = where.models.absolute() / "quantized" / name
    record = None if again else make.same(target, source, wanted)
    is_new = record is None
    if record is None:
        make.require_ours(target)
        usage.refuse(target, f"model {name}")
        root = tools.install(environment.TOOL, environment.folder(where.data), progress=progress)
        order = make.Order(
            model, source, _wording(source, card), wanted, target, tools.python(root), again=again
        )
        record = make.make(order, progress)
    written = cards.write(name, target, record, (source, card), own_cards)
    return Quantized(name, target, written, record, wanted, is_new)


def _check_memory(source: Checkpoint) -> None:
    """Refuse what the kernel would kill half-way: the model is held in float32, beside its copy.

    Raises:
        QlaunchError: `does_not_fit` (exit 4).
    """
    needed = _BYTES_A_PARAMETER * source.parameters + _LIBRARIES
    available = memory.read_memory().available_bytes
    if needed > available:
        raise QlaunchError(
            f"quantising {source.path} needs about {size(needed)} of memory, and"
            f" {size(available)} is available",
            code="does_not_fit",
            exit_code=ExitCode.DOES_NOT_FIT,
            fix="free memory, or make the copy on a larger machine and serve its folder here",
        )


def default_name(card: ModelCard | None, source: Checkpoint, wanted: Format) -> str:
    """`MODEL-TO`, in the letters that a card's name may have."""
    base = card.name if card else source.path.name.lower()
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in base)
    return f"{kept.strip('._-')[:50] or 'model'}-{wanted.name}"


def _wording(source: Checkpoint, card: ModelCard | None) -> Wording:
    before = source.prompts.pair if source.prompts else ("", "")
    return Wording(card.instruction if card else None, *before)
