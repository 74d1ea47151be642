"""Figures of a benchmark and the report that holds them. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

VERSION = 1


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A measurement that was repeated: its median, and the least and most seen."""

    median: float
    least: float
    most: float
    count: int


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a table. `ratio` is `ours / other` of neighbours in time, never of two runs."""

    name: str
    unit: str
    """Of `ours` and `other`: s, ms, MB, tokens/s, % of a core."""
    ours: Spread
    other: Spread | None = None
    ratio: Spread | None = None
    wanted: str | None = None
    """The target in words; None: shown, not judged."""
    ok: bool | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`results/NAME.json`."""

    version: int = VERSION
    benchmark: str
    title: str
    ours: str
    """What the column of qlaunch's own figures holds."""
    other: str | None = None
    """What it is compared with."""
    made: str = ""
    """ISO 8601, UTC."""
    quick: bool = False
    """Few and short repeats, to try the script: no result."""
    machine: dict[str, Any] = {}
    versions: dict[str, str | None] = {}
    settings: dict[str, Any] = {}
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    raw: dict[str, Any] = {}
    """Every single figure, in the order in which it was measured."""

    @property
    def missed(self) -> tuple[Row, ...]:
        """Rows whose target was not met."""
        return tuple(row for row in self.rows if row.ok is False)


def spread(values: Sequence[float]) -> Spread:
    """Median, least, most and number of at least one value.

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError("nothing was measured")
    return Spread(
        median=statistics.median(values), least=min(values), most=max(values), count=len(values)
    )


def ratios(ours: Sequence[float], other: Sequence[float]) -> list[float]:
    """`ours / other`, pair by pair: each pair was measured one after the other.

    Raises:
        ValueError: the numbers of values differ, or a value to divide by is not positive.
    """
    if any(value <= 0 for value in other):
        raise ValueError("a ratio to a figure that is not positive means nothing")
    return [a / b for a, b in zip(ours, other, strict=True)]


Relation = Literal["at most", "at least"]
_RELATIONS: dict[Relation, tuple[str, Callable[[float, float], bool]]] = {
    "at most": ("≤", lambda seen, limit: seen <= limit),
    "at least": ("≥", lambda seen, limit: seen >= limit),
}


def compared(
    name: str,
    unit: str,
    ours: Sequence[float],
    other: Sequence[float],
    relation: Relation | None = None,
    limit: float = 0.0,
) -> Row:
    """A row of ours against another, judged by the median of the pairs' ratios."""
    ratio = spread(ratios(ours, other))
    wanted, ok = _judged(relation, limit, "×", ratio.median)
    return Row(
        name=name,
        unit=unit,
        ours=spread(ours),
        other=spread(other),
        ratio=ratio,
        wanted=wanted,
        ok=ok,
    )


def single(
    name: str,
    unit: str,
    ours: Sequence[float],
    relation: Relation | None = None,
    limit: float = 0.0,
    *,
    other: Sequence[float] = (),
) -> Row:
    """A row judged by our own median; what it is compared with is shown beside it."""
    seen = spread(ours)
    wanted, ok = _judged(relation, limit, unit, seen.median)
    beside = spread(other) if other else None
    return Row(name=name, unit=unit, ours=seen, other=beside, wanted=wanted, ok=ok)


def _judged(
    relation: Relation | None, limit: float, unit: str, seen: float
) -> tuple[str | None, bool | None]:
    if relation is None:
        return None, None
    sign, holds = _RELATIONS[relation]
    return f"{sign} {limit:g} {unit}", holds(seen, limit)


def number(value: float) -> str:
    """Three significant digits, never an exponent: `0.075`, `12.3`, `7048`."""
    if value == 0:
        return "0"
    digits = max(0, 3 - len(f"{abs(value):.0f}")) if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"


def words(found: Spread | None, unit: str) -> str:
    """`13.8 s (13.5 – 14.2)`; one value stands alone, none is `–`."""
    if found is None:
        return "–"
    middle = f"{number(found.median)} {unit}".strip()
    if found.count == 1:
        return middle
    return f"{middle} ({number(found.least)} – {number(found.most)})"


def markdown(report: Report) -> list[str]:
    """The report as a table and its notes."""
    titles = ["", report.ours, *([report.other, "ratio"] if report.other else []), "wanted", ""]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for row in report.rows:
        against = [words(row.other, row.unit), words(row.ratio, "×")] if report.other else []
        verdict = {True: "yes", False: "**no**", None: ""}[row.ok]
        cells = [row.name, words(row.ours, row.unit), *against, row.wanted or "–", verdict]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", *(f"- {note}" for note in report.notes)]
