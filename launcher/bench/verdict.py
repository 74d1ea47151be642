"""Who is ahead, by how much, and what is to be kept in mind: a comparison in sentences. Pure.

Facts (the modes) and the verdict are apart: whatever is said here can be read off the document.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from launcher.bench.trial import label
from launcher.documents.comparison import Cell, Comparison, Figure, Level, Mode, Objective, Spread
from launcher.hardware.idle import QUIET
from launcher.verify.thresholds import SMALL_LOSS_MIN

DECIDING: Final[dict[Objective, Figure]] = {"throughput": "embeddings_per_s", "latency": "p50_ms"}


def figure(objective: Objective) -> Figure:
    """The figure that decides. Latency: the median, since a p95 of 100 requests rests on five."""
    return DECIDING[objective]


def judged(found: Comparison) -> Comparison:
    """The comparison with its winner and verdict."""
    best = winner(found)
    name = best[0] if best else None
    found = msgspec.structs.replace(found, winner=name)
    return msgspec.structs.replace(found, verdict=tuple(_sentences(found)))


def deciding(found: Comparison) -> Level | None:
    """The level that decides: the heaviest load for throughput, the lightest for latency."""
    if not found.levels:
        return None
    if found.objective == "latency":
        return min(found.levels, key=_load)
    return max(found.levels, key=_load)


def _load(level: Level) -> tuple[float, ...]:
    """How heavy a level is; of mixed lengths their mean counts."""
    tokens = level.tokens if level.shortest is None else (level.shortest + level.tokens) / 2
    return level.clients, level.batch, tokens


def winner(found: Comparison) -> tuple[str, Level, float] | None:
    """Name, level and figure of the best mode.

    One whose vectors are wrong cannot win, nor one that failed on the way. Before the end, what
    was measured in part counts where nothing was measured wholly yet.
    """
    level = deciding(found)
    if level is None:
        return None
    whole = [mode for mode in found.modes if mode.outcome == "measured"]
    if not whole and not found.complete:
        whole = [mode for mode in found.modes if mode.outcome == "partial"]
    able = [
        (seen.median, mode.name)
        for mode in whole
        if wrong(mode) is None and (seen := at(mode, level, figure(found.objective))) is not None
    ]
    if not able:
        return None
    value, name = min(able) if found.objective == "latency" else max(able)
    return name, level, value


def wrong(mode: Mode) -> str | None:
    """Why a mode's vectors are not the model's, or None; unknown is not wrong."""
    quality = mode.quality
    if quality is None or quality.cosine_min is None or quality.cosine_min >= SMALL_LOSS_MIN:
        return None
    return f"its vectors are not the model's: worst cosine {quality.cosine_min:.2f}"


def at(mode: Mode, level: Level, name: Figure) -> Spread | None:
    """A mode's figure at a level."""
    found = mode.cell(level)
    return None if found is None else getattr(found, name)


def ratio(found: Comparison, mode: Mode, other: Mode, level: Level | None = None) -> float | None:
    """How many times better `mode` is than `other` at a level, else the deciding one."""
    level = level or deciding(found)
    name = figure(found.objective)
    if level is None:
        return None
    ours, theirs = at(mode, level, name), at(other, level, name)
    if ours is None or theirs is None or ours.median <= 0 or theirs.median <= 0:
        return None
    if found.objective == "latency":
        return theirs.median / ours.median
    return ours.median / theirs.median


def noise(*seen: Spread) -> float | None:
    """Half of what repeats were apart, as a share of the median: the most; None of one repeat."""
    several = [each for each in seen if each.count > 1 and each.median > 0]
    return max(((s.most - s.least) / 2 / s.median for s in several), default=None)


def baseline(found: Comparison) -> Mode | None:
    """The mode that gains are counted from."""
    return next((mode for mode in found.modes if mode.kind == "baseline"), None)


def _sentences(found: Comparison) -> Iterable[str]:
    level = deciding(found)
    if level is not None:
        yield from _ranking(found, level)
    yield from _about_modes(found)
    idle = found.machine.idle_before
    if idle is not None and idle < QUIET:
        yield f"The machine was not quiet: {idle:.0%} of it was idle before one of the lives."
    if found.remeasured is not None:
        yield _again(found)
    if found.interrupted:
        yield f"The comparison ended early ({found.interrupted}): it is not complete."


def _ranking(found: Comparison, level: Level) -> Iterable[str]:
    first = next((mode for mode in found.modes if mode.name == found.winner), None)
    if first is None:
        yield "No mode was measured wholly at the level that decides."
        return
    name = figure(found.objective)
    ours = at(first, level, name)
    assert ours is not None
    others = [mode for mode in found.modes if mode is not first and at(mode, level, name)]
    if not others:
        yield f"{first.name} is the only mode that was measured: {_value(ours, name)}."
    others.sort(key=lambda mode: mode.kind != "baseline")
    for other in others:
        theirs = at(other, level, name)
        assert theirs is not None
        yield _pair(found, first, other, ours, theirs, level)


def _pair(
    found: Comparison, first: Mode, other: Mode, ours: Spread, theirs: Spread, level: Level
) -> str:
    name = figure(found.objective)
    apart, times = noise(ours, theirs), ratio(found, first, other) or 1.0
    known = "one repeat, so its noise is not known" if apart is None else f"noise ±{apart:.0%}"
    figures = f"{label(level)}: {_value(ours, name)} against {_value(theirs, name)}; {known}"
    if 1 / (1 + (apart or 0)) <= times <= 1 + 2 * (apart or 0) and apart is not None:
        return f"{first.name} and {other.name} do not differ beyond the noise ({figures})."
    if times < 1:
        faster = f"{other.name} is {1 / times:.1f} × as fast as {first.name}"
        why = wrong(other) or "it was not measured completely"
        return f"{faster} ({figures}), but does not count: {why}."
    if found.objective == "latency":
        return f"{first.name} answers {times:.1f} × as fast as {other.name} ({figures})."
    return f"{first.name} answers {times:.1f} × as many texts a second as {other.name} ({figures})."


def _value(seen: Spread, name: Figure) -> str:
    return f"{seen.median:.1f} {'ms' if name == 'p50_ms' else 'texts/s'}"


def _about_modes(found: Comparison) -> Iterable[str]:
    for mode in found.modes:
        if mode.outcome == "cannot_run":
            yield f"{mode.name} cannot run here: {mode.reason}."
        elif mode.outcome in ("failed", "partial"):
            yield f"{mode.name} was {_MEASURED[mode.outcome]}: {mode.reason}."
        if mode.note and mode.cells:
            yield f"{mode.name}: {mode.note}."
        problem = wrong(mode)
        if problem is not None:
            yield f"{mode.name} cannot win: {problem}."
        noisy = [each.level for each in mode.cells if is_noisy(each)]
        if noisy:
            where = "; ".join(label(level) for level in noisy)
            yield f"Noisy: repeats of {mode.name} lie more than 15 % apart ({where})."
        if any(each.saturated for each in mode.cells):
            yield f"The client was at its limit while it measured {mode.name}: it may be faster."
    served = {mode.model for mode in found.modes if mode.cells and mode.model}
    if len(served) > 1:
        yield "The modes serve different models: their speed compares, their vectors do not."


_MEASURED = {"failed": "not measured", "partial": "measured in part"}


def is_noisy(found: Cell) -> bool:
    """Whether the repeats of the figures that decide were far apart."""
    return any(seen.noisy for seen in (found.embeddings_per_s, found.p50_ms) if seen is not None)


def _again(found: Comparison) -> str:
    again = found.remeasured
    assert again is not None
    change = again.again / again.first - 1
    unit = "ms" if again.figure == "p50_ms" else "texts/s"
    return (
        f"Measured again in a fresh life, {again.mode} gave {again.again:.1f} {unit}"
        f" instead of {again.first:.1f} ({change:+.1%})."
    )
