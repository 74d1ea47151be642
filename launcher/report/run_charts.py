"""The figures of one life: its start, and its memory over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from launcher.report import formatting, svg
from launcher.units import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from launcher.documents.plan import Plan
    from launcher.documents.run import Run, Sample

POINTS = 2000
"""More samples than that are thinned, keeping the largest of each stretch."""


def timeline(phases: Sequence[tuple[str, float, float]]) -> str | None:
    """The start as one bar, a stretch a phase: (name, beginning, length), seconds."""
    phases = [(formatting.plain(name), at, length) for name, at, length in phases if length > 0]
    if not phases:
        return None
    end = max(at + length for _, at, length in phases)

    def paint(_figure: Figure, axes: Axes) -> None:
        for number, (name, at, length) in enumerate(phases):
            colour = svg.series(number)
            axes.barh(0, length, left=at, height=0.5, color=colour, alpha=0.85, label=name)
        axes.set_ylim(-0.45, 0.35)
        axes.set_xlim(0, end * 1.01)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("seconds since it was asked for")
        handles, labels = axes.get_legend_handles_labels()
        named = [
            f"{label} {formatting.seconds(length)}"
            for label, (_, _, length) in zip(labels, phases, strict=True)
        ]
        axes.legend(handles, named, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(phases))

    return svg.draw(
        "timeline",
        paint,
        title="Phases of the start",
        description="; ".join(
            f"{name} took {formatting.seconds(length)}" for name, _, length in phases
        ),
        height=1.5,
    )


def memory_over_time(kind: str, samples: Sequence[Sample], run: Run) -> str | None:
    """RAM or GPU memory over time, stacked by process, with the predicted lines.

    None where none was measured. A stretch that could not be measured is a gap.
    """
    if all(_total(sample, kind) is None for sample in samples):
        return None
    taken = _thinned(samples, kind)
    unit, scale = _time_unit(taken[-1].t_s)
    times = [sample.t_s / scale for sample in taken]
    stacks = _stacks(taken, kind)
    lines = predicted_lines(kind, run.plan)

    def paint(_figure: Figure, axes: Axes) -> None:
        if stacks:
            axes.stackplot(
                times,
                *stacks.values(),
                labels=list(stacks),
                colors=[svg.series(number) for number in range(len(stacks))],
                alpha=0.75,
                linewidth=0,
            )
        totals = [_gigabytes(_total(sample, kind)) for sample in taken]
        axes.plot(times, totals, color=svg.INK, linewidth=1.2, label="all processes")
        for style, (name, value) in zip(("--", ":"), lines, strict=False):
            axes.axhline(value / 1e9, color=svg.WARN, linestyle=style, linewidth=1.6, label=name)
        top = max(max((t for t in totals if not math.isnan(t)), default=0), *_tops(lines), 1e-3)
        axes.set_ylim(0, 1.08 * top)
        axes.set_xlim(0, max(times[-1], 1e-3))
        _mark_verified(axes, run.timings.verified_s, scale, times[-1])
        axes.set_xlabel(f"{unit} since it was asked for")
        axes.set_ylabel(f"{'RAM' if kind == 'ram' else 'GPU memory'}, GB")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)

    return svg.draw(
        f"{kind}-time",
        paint,
        title=f"{'RAM' if kind == 'ram' else 'GPU memory'} over time by process",
        description=_said(kind, samples, lines),
        height=4.4,
    )


def predicted_lines(kind: str, plan: Plan | None) -> list[tuple[str, int]]:
    """Names and bytes of the plan's predictions: until verified, and under full load."""
    if plan is None:
        return []
    lines = (
        ("predicted until verified", getattr(plan.predicted, f"{kind}_bytes")),
        ("predicted at full load", getattr(plan.predicted, f"{kind}_full_bytes")),
    )
    return [(name, value) for name, value in lines if value is not None]


def _tops(lines: Sequence[tuple[str, int]]) -> list[float]:
    return [value / 1e9 for _, value in lines]


def _mark_verified(axes: Axes, at: float | None, scale: float, end: float) -> None:
    if at is None or at / scale > end:
        return
    axes.axvline(at / scale, color=svg.INK, linewidth=1, linestyle=(0, (2, 3)))
    axes.annotate(
        "verified",
        (at / scale, 0.03),
        xycoords=("data", "axes fraction"),
        xytext=(5, 0),
        textcoords="offset points",
        fontsize=9,
    )


def _total(sample: Sample, kind: str) -> int | None:
    return sample.ram_bytes if kind == "ram" else sample.gpu_bytes


def _gigabytes(value: int | None) -> float:
    return math.nan if value is None else value / 1e9


def _stacks(samples: Sequence[Sample], kind: str) -> dict[str, list[float]]:
    """Gigabytes by role over time; a role without a process counts nothing at that moment."""
    from launcher.report.roles import ROLES, by_role

    by = [by_role(sample, kind) for sample in samples]
    known = [_total(sample, kind) is not None for sample in samples]
    return {
        role: [
            (found[role] or 0) / 1e9 if there else math.nan
            for found, there in zip(by, known, strict=True)
        ]
        for role in ROLES
        if any(found[role] is not None for found in by)
    }


def _thinned(samples: Sequence[Sample], kind: str) -> list[Sample]:
    step = math.ceil(len(samples) / POINTS)
    if step <= 1:
        return list(samples)
    stretches = (samples[at : at + step] for at in range(0, len(samples), step))
    return [max(stretch, key=lambda sample: _total(sample, kind) or -1) for stretch in stretches]


def _time_unit(last_s: float) -> tuple[str, float]:
    if last_s < 600:
        return "seconds", 1.0
    return ("minutes", 60.0) if last_s < 6 * 3600 else ("hours", 3600.0)


def _said(kind: str, samples: Sequence[Sample], lines: Sequence[tuple[str, int]]) -> str:
    """The figure in words."""
    peak = max((_total(sample, kind) or 0 for sample in samples), default=0)
    last = next((_total(s, kind) for s in reversed(samples) if _total(s, kind) is not None), None)
    parts = [f"at most {formatting.size(peak)}", f"at the end {formatting.size(last)}"]
    parts += [f"{name} {formatting.size(value)}" for name, value in lines]
    return f"{counted(len(samples), 'sample')}: {', '.join(parts)}"
