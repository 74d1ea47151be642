"""NVIDIA cards by the names people say, and machines one does not sit at."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec

from launcher.errors import QlaunchError
from launcher.hardware.inventory import Gpu, Hardware
from launcher.units import MIB

NEW_ENOUGH_DRIVER: Final = "580"
"""R580, the first driver that runs CUDA 13 and with it every engine release of the catalogue."""
UNNAMED_CAPABILITY: Final = (8, 6)
"""What a card is taken for of which only the memory is known: the consumer cards of Ampere, the
oldest generation that current engine releases have kernels for."""

_NOISE: Final = re.compile(
    r"\b(?:nvidia|tesla|geforce|quadro|laptop|gpu|sxm\d?|pcie|nvl|hbm\de?|generation|blackwell"
    r"|max q|with|design|workstation|server|edition)\b"
)
_MEMORY: Final = re.compile(r"\b(\d{1,3})\s*gi?b?\b")


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of `cards.yaml`."""

    name: str = ""
    """The entry's key."""
    capability: Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]?\.[0-9]$")]
    """Compute capability, such as "7.5"."""
    memory_mib: Annotated[tuple[int, ...], msgspec.Meta(min_length=1)]
    """Memory of each variant, MiB; the usual one first."""


@functools.cache
def known_cards() -> Mapping[str, Card]:
    """Every card of `cards.yaml`, by its bare name (`bare_name`), in the file's order."""
    from launcher.yaml_reader import load_typed

    loaded = load_typed(Path(__file__).with_name("cards.yaml"), dict[str, Card], what="GPU list")
    return {
        bare_name(name): msgspec.structs.replace(card, name=name)
        for name, card in loaded.value.items()
    }


def bare_name(name: str) -> str:
    """A card's name without maker, form factor, memory and MIG profile, for comparing.

    `NVIDIA GeForce RTX 3050 Laptop GPU`, `rtx3050` and `RTX 3050 4GB` are all `rtx3050`.
    """
    text = re.sub(r"[-_]", " ", name.lower()).split(" mig ", maxsplit=1)[0]
    return re.sub(r"[^a-z0-9]", "", _NOISE.sub(" ", _MEMORY.sub(" ", text)))


def find_card(name: str) -> Card:
    """The card that people mean by `name`; the maker and the series may be left out.

    Raises:
        QlaunchError: `gpu_unknown` (exit 2), with the nearest names.
    """
    known, wanted = known_cards(), bare_name(name)
    for key in (wanted, f"rtx{wanted}", f"gtx{wanted}"):
        if key in known:
            return known[key]
    from launcher.yaml_messages import shown

    # Names are two to nine characters: half of them right is as near as a slip gets.
    near = [known[key].name for key in difflib.get_close_matches(wanted, known, 3, 0.5)]
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise QlaunchError(
        f"there is no card `{shown(name, 60)}` in the list of NVIDIA's GPUs{hint}",
        code="gpu_unknown",
        fix="give its memory alone (--vram 8GB), or one of: "
        + ", ".join(card.name for card in known.values()),
    )


def hypothetical(
    gpu: str | None, vram: int | None, base: Hardware, *, driver: str | None = None
) -> Hardware:
    """`base` with one such card in place of its own.

    Args:
        gpu: a card's name as people say it; None: some card with `vram` bytes.
        vram: memory of the card, bytes; None: what such a card has.
        base: where processor and RAM are taken from.
        driver: version of the NVIDIA driver; None takes one that runs every engine release.

    Returns:
        The machine; `assumed` says what of it nobody has read.

    Raises:
        QlaunchError: `gpu_unknown` (exit 2), or `usage` (exit 2) for a driver that is no version.
    """
    if driver is not None and not re.fullmatch(r"\d{3}(\.\d{1,4}){0,2}", driver, re.ASCII):
        raise _usage("the driver's version is a number such as 535 or 580.95.05", given=driver)
    assumed = ["processor and RAM are taken from this machine"]
    if gpu is None and vram is None:
        cards = base.gpus
    else:
        card, said = _card(gpu, vram)
        cards, assumed = (card,), [*said, *assumed]
    if driver is None:
        assumed.insert(0, "its driver is taken as new enough for every release (R580)")
    return msgspec.structs.replace(
        base,
        gpus=cards,
        gpu_status="ok" if cards else base.gpu_status,
        driver_version=driver or NEW_ENOUGH_DRIVER,
        cuda_driver_version=None,
        assumed=tuple(assumed),
    )


def _card(name: str | None, vram: int | None) -> tuple[Gpu, list[str]]:
    if vram is not None and vram < MIB:
        raise _usage("a card's memory is a size such as 4GB", given=str(vram))
    if name is None:
        assert vram is not None
        title, capability, size = "NVIDIA GPU", UNNAMED_CAPABILITY, vram
        said = ["the card is taken as compute capability 8.6 (only its memory is known)"]
    else:
        card = find_card(name)
        major, _, minor = card.capability.partition(".")
        title, capability = card.name, (int(major), int(minor))
        size = vram or _variant(card, name) * MIB
        said = []
    gpu = Gpu(
        index=0,
        uuid="",
        name=title,
        compute_capability=capability,
        memory_total_bytes=size,
        memory_free_bytes=None,
    )
    return gpu, [*said, "all of the card's memory is taken as free"]


def _variant(card: Card, name: str) -> int:
    """Memory of the variant that `name` says (`A100 80GB`), else of the usual one; MiB.

    Raises:
        QlaunchError: `usage` (exit 2): the card was not sold with so much.
    """
    said = _MEMORY.search(re.sub(r"[-_]", " ", name.lower()))
    if said is None:
        return card.memory_mib[0]
    wanted = int(said[1]) * 1024
    near = min(card.memory_mib, key=lambda size: abs(size - wanted))
    if abs(near - wanted) > 0.08 * wanted:
        sold = ", ".join(f"{size / 1024:.0f}" for size in card.memory_mib)
        raise _usage(f"{card.name} is known with {sold} GB; for another size give --vram", name)
    return near


def _usage(message: str, given: str) -> QlaunchError:
    from launcher.yaml_messages import shown

    return QlaunchError(f"`{shown(given, 60)}`: {message}", code="usage")
