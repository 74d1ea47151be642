"""Which card each replica of a set computes on. Pure."""

from __future__ import annotations

from typing import Final

from launcher.argv import options
from launcher.hardware.inventory import Gpu
from launcher.hardware.visible import VISIBLE
from launcher.plan.fit import free_bytes
from launcher.plan.inputs import Inputs

PARALLEL: Final = frozenset({"tp-size", "tp", "dp-size", "dp", "pp-size", "base-gpu-id"})
"""Options of the engine by which one engine uses several cards, or chooses its own."""


def visible(gpu: Gpu) -> dict[str, str]:
    """What shows an engine this card alone.

    Whole cards go by number: engines parse the list. A MIG slice has none, only its UUID.
    """
    return {VISIBLE: gpu.uuid if gpu.mig else str(gpu.index)}


def cards(inputs: Inputs) -> tuple[Gpu, ...]:
    """The cards that replicas are spread over, those with most memory free first.

    Those of the kind that was chosen: vectors of another kind may differ. None where the engine is
    not on a card, or the user says which.
    """
    choice = inputs.choice
    if choice is None or choice.gpu is None or inputs.settings.replicas == 1:
        return ()
    if PARALLEL & {*options(inputs.extra), *inputs.settings.flags} or VISIBLE in inputs.profile.env:
        return ()
    kind = (choice.gpu.name, choice.gpu.compute_capability, choice.gpu.mig)
    alike = [
        gpu for gpu in inputs.hardware.gpus if (gpu.name, gpu.compute_capability, gpu.mig) == kind
    ]
    return tuple(sorted(alike, key=free_bytes, reverse=True))[: inputs.settings.replicas]


def most_on_one(inputs: Inputs) -> int:
    """How many engines share one memory: all of a set, or those on its fullest card."""
    spread = len(cards(inputs)) or 1
    return -(-inputs.settings.replicas // spread)
