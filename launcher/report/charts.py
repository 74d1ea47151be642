"""The figures of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher.documents.comparison import Comparison, Level, Mode, Spread
from launcher.report import formatting, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAME_CHARS = 28
"""Of a mode's name beside its marks."""


@dataclass(frozen=True)
class _Point:
    """A cell that can be placed."""

    level: Level
    rate: Spread
    """Embeddings a second."""
    latency: Spread
    """p50, milliseconds."""


def throughput(doc: Comparison) -> str | None:
    """Latency against throughput, a mark a level and mode; None where nothing was measured."""
    found = [(number, mode, _points(mode)) for number, mode in enumerate(doc.modes)]
    found = [(number, mode, points) for number, mode, points in found if points]
    if not found:
        return None

    def paint(figure: Figure, axes: Axes) -> None:
        for number, mode, points in found:
            _series(axes, number, _short(formatting.plain(mode.name)), points)
        _logarithmic(axes, "x")
        _logarithmic(axes, "y")
        axes.set_xlabel("embeddings per second (more is better)")
        axes.set_ylabel("p50 latency, ms (less is better)")
        axes.margins(0.08)
        longest = max(len(_short(formatting.plain(mode.name))) for _, mode, _ in found)
        figure.legend(loc="outside upper center", ncols=max(1, min(4, 84 // (longest + 6))))
        labels = [
            (formatting.short_level(point.level), point.rate.median, point.latency.median)
            for _, _, points in found
            for point in points
        ]
        svg.place_labels(figure, axes, labels)

    said = [
        f"{formatting.plain(mode.name)}: "
        + "; ".join(
            f"{formatting.level(point.level)}:"
            f" {formatting.figure(point.rate.median)} embeddings/s"
            f" at {formatting.figure(point.latency.median)} ms"
            for point in points
        )
        for _, mode, points in found
    ]
    return svg.draw(
        "throughput",
        paint,
        title="Latency against throughput by mode and level",
        description=". ".join(said),
        height=4.6 + 0.25 * (len(found) // 4),
    )


def _points(mode: Mode) -> list[_Point]:
    """The cells that can be placed, in the order of their load."""
    points = [
        _Point(cell.level, cell.embeddings_per_s, cell.p50_ms)
        for cell in mode.cells
        if cell.embeddings_per_s is not None and cell.p50_ms is not None
    ]
    placed = [each for each in points if _positive(each.rate) and _positive(each.latency)]
    return sorted(placed, key=lambda point: _load(point.level))


def _load(level: Level) -> tuple[Any, ...]:
    tokens = level.tokens, level.shortest or level.tokens
    return (level.loop, *tokens, level.batch, level.clients)


def _positive(found: Spread) -> bool:
    return found.median > 0 and found.least > 0


def _series(axes: Axes, number: int, name: str, points: Sequence[_Point]) -> None:
    colour = svg.series(number)
    x, y = [point.rate for point in points], [point.latency for point in points]
    # One line a batch and length: it says what more clients change.
    for group in dict.fromkeys(_load(point.level)[:3] for point in points):
        line = [point for point in points if _load(point.level)[:3] == group]
        axes.plot(
            [point.rate.median for point in line],
            [point.latency.median for point in line],
            color=colour,
            linewidth=1,
            alpha=0.45,
        )
    axes.errorbar(
        [found.median for found in x],
        [found.median for found in y],
        xerr=_whiskers(x),
        yerr=_whiskers(y),
        fmt=svg.marker(number),
        color=colour,
        markersize=7,
        elinewidth=1.2,
        capsize=3,
        label=name,
    )


def _whiskers(found: Sequence[Spread]) -> list[list[float]]:
    return [
        [max(0.0, one.median - one.least) for one in found],
        [max(0.0, one.most - one.median) for one in found],
    ]


def _logarithmic(axes: Axes, which: str) -> None:
    """A scale of factors, with plain numbers on it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log") if which == "x" else axes.set_yscale("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: formatting.figure(value)))
    axis.set_minor_formatter(NullFormatter())


def memory_bars(doc: Comparison) -> str | None:
    """Peak RAM by mode with its prediction; None where nothing was measured."""
    found = [
        (number, formatting.plain(mode.name), mode.ram_peak_bytes, mode.predicted.get("ram_bytes"))
        for number, mode in enumerate(doc.modes)
        if mode.ram_peak_bytes
    ]
    if not found:
        return None

    def paint(_figure: Figure, axes: Axes) -> None:
        for row, (number, _name, peak, foreseen) in enumerate(found):
            axes.barh(row, peak / 1e9, height=0.55, color=svg.series(number), alpha=0.85)
            axes.annotate(
                formatting.size(peak),
                (max(peak, foreseen or 0) / 1e9, row),
                xytext=(7, 0),
                textcoords="offset points",
                va="center",
                fontsize=10,
            )
            if foreseen:
                at = foreseen / 1e9
                axes.plot([at, at], [row - 0.4, row + 0.4], color=svg.INK, linewidth=2)
        axes.set_yticks(range(len(found)), [_short(name) for _, name, _, _ in found])
        axes.set_xlim(
            0, 1.18 * max(max(peak, foreseen or 0) for _, _, peak, foreseen in found) / 1e9
        )
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("Peak RAM over the whole life, GB (bars); predicted (lines)")

    said = [
        f"{name}: {formatting.size(peak)}"
        + (f", predicted {formatting.size(foreseen)}" if foreseen else "")
        for _, name, peak, foreseen in found
    ]
    return svg.draw(
        "memory",
        paint,
        title="Peak memory by mode",
        description=". ".join(said),
        height=0.9 + 0.5 * len(found),
    )


def _short(name: str) -> str:
    return name if len(name) <= _NAME_CHARS else f"{name[: _NAME_CHARS - 1]}…"
