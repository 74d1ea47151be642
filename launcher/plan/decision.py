"""A decision carries its reasons: why a plan is as it is cannot drift from what it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from launcher.argv import FlagValue

T = TypeVar("T")
Flags = dict[str, FlagValue]
"""Engine options by name, without the dashes."""


@dataclass(frozen=True)
class Decision(Generic[T]):
    """What was decided, and why: a sentence each, for people only."""

    value: T
    reasons: tuple[str, ...] = ()
