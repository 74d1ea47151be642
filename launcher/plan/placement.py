"""Which cards an engine computes on, alone or as one of a set. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Final

import msgspec

from launcher.argv import FlagValue
from launcher.errors import ExitCode, QlaunchError
from launcher.hardware.inventory import Gpu
from launcher.hardware.visible import VISIBLE
from launcher.plan import fit
from launcher.plan.engine_and_card import Choice
from launcher.plan.fit import free_bytes
from launcher.plan.inputs import Inputs
from launcher.plan.memory import count
from launcher.plan.option_checks import given
from launcher.units import counted

SPREAD: Final = (
    ("tp-size", "tensor-parallel-size"),
    ("pp-size", "pipeline-parallel-size"),
    ("dp-size", "data-parallel-size"),
)
"""Options by which one engine takes several cards: as many as their product; with their other
names."""
FIRST: Final = "base-gpu-id"
"""The option that says which of the visible cards is the first."""
STEP: Final = "gpu-id-step"


def visible(*gpus: Gpu) -> dict[str, str]:
    """What shows an engine these cards alone.

    Whole cards go by number: engines parse the list. A MIG slice has none, only its UUID.
    """
    return {VISIBLE: ",".join(gpu.uuid if gpu.mig else str(gpu.index) for gpu in gpus)}


def on_its_cards(inputs: Inputs) -> Inputs:
    """The inputs with a machine of only the cards that the engine computes on: the one chosen for
    it, those that replicas are spread over, or as many of that kind as its options ask for.

    Raises:
        QlaunchError: `does_not_fit` (exit 4) where the options ask for more cards than there are.
    """
    choice = inputs.choice
    if choice is None or choice.gpu is None:
        return inputs
    seen = _asked(inputs, choice) or cards(inputs) or (choice.gpu,)
    return replace(inputs, hardware=msgspec.structs.replace(inputs.hardware, gpus=seen))


def _asked(inputs: Inputs, choice: Choice) -> tuple[Gpu, ...]:
    """The cards that the options ask for; none where they leave that to us."""
    flags, gpu = _flags(inputs), choice.gpu
    wanted = _wanted(inputs)
    if not wanted or gpu is None:
        return ()
    first, step = count(flags, FIRST) or 0, count(flags, STEP) or 1
    there = inputs.hardware.gpus if FIRST in flags else _alike(inputs, gpu)
    seen = there[first:wanted:step]
    why = None
    if wanted > len(there):
        why = f"{len(there)} can be used here ({', '.join(sorted({g.name for g in there}))})"
    elif wanted > 1 and gpu.mig:
        why = f"{gpu.name} is a MIG slice, of which CUDA shows a process one alone"
    elif not all(fit.in_range(each.compute_capability, choice.release) for each in seen):
        names = ", ".join(each.name for each in seen)
        why = f"engine {choice.release.name} is for {gpu.name}, and they name {names}"
    if why is not None:
        raise QlaunchError(
            f"its options ask for {counted(wanted, 'GPU')} ({_said(flags)}): {why}",
            code="does_not_fit",
            exit_code=ExitCode.DOES_NOT_FIT,
            fix="leave these options out; several engines on one machine: --replicas",
        )
    return seen


def shown(inputs: Inputs) -> dict[str, str]:
    """The variable that shows the engine its cards (`on_its_cards`); empty where it sees no others,
    and where the user counts them (`--base-gpu-id`)."""
    choice = inputs.choice
    if choice is None or choice.gpu is None or FIRST in _flags(inputs):
        return {}
    if choice.only_gpu and not choice.gpu.mig:
        return {}
    return visible(*(inputs.hardware.gpus if _wanted(inputs) else (choice.gpu,)))


def cards(inputs: Inputs) -> tuple[Gpu, ...]:
    """The cards that replicas are spread over, those with most memory free first.

    Those of the kind that was chosen: vectors of another kind may differ. None where the engine is
    not on a card, or the user says which.
    """
    choice = inputs.choice
    if choice is None or choice.gpu is None or inputs.settings.replicas == 1:
        return ()
    if _wanted(inputs) or VISIBLE in inputs.profile.env:
        return ()
    alike = _alike(inputs, choice.gpu)
    return tuple(sorted(alike, key=free_bytes, reverse=True))[: inputs.settings.replicas]


def most_on_one(inputs: Inputs) -> int:
    """How many engines share one memory: all of a set, or those on its fullest card."""
    spread = len(cards(inputs)) or 1
    return -(-inputs.settings.replicas // spread)


def _alike(inputs: Inputs, chosen: Gpu) -> tuple[Gpu, ...]:
    """The cards of the kind that was chosen."""
    kind = (chosen.name, chosen.compute_capability, chosen.mig)
    return tuple(
        gpu for gpu in inputs.hardware.gpus if (gpu.name, gpu.compute_capability, gpu.mig) == kind
    )


def _flags(inputs: Inputs) -> Mapping[str, FlagValue]:
    return given(inputs.settings.flags, inputs.extra)


def _wanted(inputs: Inputs) -> int:
    """How many of the visible cards the options reach, 0 where they leave that to us."""
    flags = _flags(inputs)
    sizes = [max((count(flags, name) or 1 for name in names), default=1) for names in SPREAD]
    if flags.get("enable-dp-attention"):  # its copies share the cards of the parts
        sizes.pop()
    several = prod(sizes) // (count(flags, "nnodes") or 1)
    if several < 2 and FIRST not in flags:
        return 0
    return (count(flags, FIRST) or 0) + (several - 1) * (count(flags, STEP) or 1) + 1


def _said(flags: Mapping[str, FlagValue]) -> str:
    names = [name for group in SPREAD for name in group]
    return " ".join(f"--{n} {flags[n]}" for n in (*names, STEP, FIRST) if n in flags)
