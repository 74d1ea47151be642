"""What differs between two run records: the document of `runs diff`. Times in ms and s, memory in
bytes, throughput a second."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from launcher.documents.comparison import Loop


class RunName(msgspec.Struct, frozen=True, kw_only=True):
    """Which run is meant."""

    run: str
    service: str
    profile: str
    outcome: str
    began: str


class WordChange(msgspec.Struct, frozen=True, kw_only=True):
    """An option of the engine's command, with its value."""

    change: Literal["replaced", "removed", "added"]
    a: str | None
    b: str | None


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A variable, a setting or a version; None where a run has none."""

    name: str
    a: Any
    b: Any


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a check of the smoke ended."""

    ok: bool
    detail: str


class CheckChange(msgspec.Struct, frozen=True, kw_only=True):
    """A check with another result or another detail; None where it was not made."""

    name: str
    a: CheckResult | None
    b: CheckResult | None


class SameVectors(msgspec.Struct, frozen=True, kw_only=True):
    """Whether one index may hold the vectors of both runs."""

    same: bool | None = None
    """True only where both proved their vectors against the float32 reference of the same
    checkpoint, pooled in the same way; None where one of them proved nothing."""
    reason: str = ""
    sample_distance: float | None = None
    """Greatest difference between the first five numbers of the smoke's first text; None where a
    run has none."""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A figure of both runs; None where it was not measured."""

    name: str
    a: float | None
    b: float | None
    ratio: float | None
    """b / a; None where one of them was not measured."""
    methods: tuple[str | None, ...] | msgspec.UnsetType = msgspec.UNSET
    """How memory was measured, in A and in B; of peaks alone."""


class MeasuredLevel(msgspec.Struct, frozen=True, kw_only=True):
    """What two rows of `bench` must share to be held against each other."""

    loop: Loop
    clients: int
    batch: int
    tokens: int
    shortest: int | None = None
    rate: float | None = None


class LevelFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a level of load that either run has."""

    level: MeasuredLevel
    figures: tuple[Figure, ...]


class RunDiff(msgspec.Struct, frozen=True, kw_only=True):
    """The differences of run B from run A.

    `argv`, `env`, `settings`, `versions` and `checks` hold only what differs; `figures` and
    `bench` hold all that either has.
    """

    a: RunName
    b: RunName
    argv: tuple[WordChange, ...] = ()
    """Of the engine's command, in order."""
    env: tuple[Change, ...] = ()
    settings: tuple[Change, ...] = ()
    """What the plan decided beyond its command."""
    versions: tuple[Change, ...] = ()
    vectors: SameVectors = SameVectors()
    figures: tuple[Figure, ...] = ()
    checks: tuple[CheckChange, ...] = ()
    bench: tuple[LevelFigures, ...] = ()
