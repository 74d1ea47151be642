"""Everything a plan is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from launcher.config.profile import Profile
from launcher.config.settings import Resolved
from launcher.engine.release import Engine
from launcher.hardware.inventory import Hardware
from launcher.model.checkpoint import Checkpoint, ModelCard
from launcher.plan import (
    calibration,
    engine_and_card,
)


@dataclass(frozen=True)
class Inputs:
    """Everything a plan is made of."""

    settings: Resolved
    profile_name: str
    profile: Profile
    hardware: Hardware
    engine: Engine
    checkpoint: Checkpoint
    card: ModelCard | None
    extra: tuple[str, ...]
    """The user's own engine options, as given after `--`."""
    parity_min: Callable[[str], float]
    """Least cosine that passes, by dtype (launcher.verify.thresholds)."""
    reference_cache: str
    choice: engine_and_card.Choice | None = None
    """Why this engine, and which card; None for an engine the user brought."""
    as_set: bool = False
    """Whether one engine alone is to be a set too, which can be given more."""
    observed: tuple[calibration.Observed, ...] = ()
    """This host's verified runs, newest first."""
