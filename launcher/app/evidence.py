"""What this machine knows of a plan: its runs and comparisons, with their age."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from launcher.app import candidates
from launcher.bench import verdict
from launcher.bench.trial import label
from launcher.documents.comparison import Cell, Comparison, Level, Mode, Spread
from launcher.documents.evidence import CitedComparison, CitedLevel, CitedRow, CitedRun, Evidence
from launcher.documents.plan import Plan
from launcher.paths import Dirs
from launcher.plan.past_runs import age, another, differences, evidence
from launcher.units import moment, size

COMPARISONS = 3
LINES = 3
"""Of each kind that a person is shown."""


def of_plan(plan: Plan, where: Dirs, start: str | None = None) -> Evidence:
    """The evidence for a plan on this machine, as `plan` and `recommend` print it.

    Args:
        start: the word after `qlaunch up` that starts it, where it is not the profile's name.
    """
    found = evidence(plan, plan.profile, candidates.past_runs(where), start)
    return with_comparisons(found, plan, where)


def with_comparisons(found: Evidence, plan: Plan | None, where: Dirs | None) -> Evidence:
    """The evidence with this machine's comparisons; `where` is None for another machine's."""
    if plan is None or where is None:
        return found
    return msgspec.structs.replace(found, comparisons=tuple(compared(plan, where)))


def compared(plan: Plan, where: Dirs) -> list[CitedComparison]:
    """The newest comparisons in which the plan's profile was measured."""
    if not where.comparisons.is_dir():
        return []
    from launcher.bench.store import list_comparisons

    now = datetime.now(UTC)
    out = [
        _comparison(found, mode, plan, now)
        for found in list_comparisons(where.comparisons)
        for mode in found.modes
        if mode.profile == plan.profile and any(cell.embeddings_per_s for cell in mode.cells)
    ]
    out.sort(key=lambda each: each.stale)
    return out[:COMPARISONS]


def _comparison(found: Comparison, mode: Mode, plan: Plan, now: datetime) -> CitedComparison:
    differs = another(plan, mode.model) + differences(
        plan, version=mode.version, argv=mode.argv, threads=None
    )
    made = moment(found.made)
    plain = verdict.baseline(found)
    return CitedComparison(
        comparison=found.id,
        mode=mode.name,
        age_s=max(0.0, (now - made).total_seconds()) if made else 0.0,
        complete=found.complete,
        stale=bool(differs),
        differs=tuple(differs),
        winner=found.winner,
        gain=None if plain is None else verdict.ratio(found, mode, plain),
        runs=tuple(mode.runs),
        levels=tuple(
            _level(cell, cell.embeddings_per_s)
            for cell in mode.cells
            if cell.embeddings_per_s is not None
        ),
    )


def _level(cell: Cell, rate: Spread) -> CitedLevel:
    return CitedLevel(
        level=label(cell.level),
        clients=cell.level.clients,
        batch=cell.level.batch,
        tokens=cell.level.tokens,
        shortest=cell.level.shortest,
        p50_ms=None if cell.p50_ms is None else cell.p50_ms.median,
        p95_ms=None if cell.p95_ms is None else cell.p95_ms.median,
        embeddings_per_s=rate.median,
        repeats=rate.count,
        noisy=verdict.is_noisy(cell),
    )


def lines(found: Evidence) -> list[str]:
    """The evidence for people, after the line that sums it up."""
    out = [f"evidence  {found.text}"]
    for run in found.runs[:LINES]:
        out += [f"  {line}" for line in _run(run)]
    for each in found.comparisons[:LINES]:
        gain = f", {each.gain:.1f} × the plain command" if each.gain else ""
        out.append(f"  comparison {each.comparison}, {age(each.age_s)} ago{gain}{_stale(each)}")
        out += [f"    {_figures(level.level, level)}" for level in each.levels]
    return out


def _run(run: CitedRun) -> Iterable[str]:
    parts = [f"run {run.run}, {age(run.age_s)} ago"]
    if run.ready_s is not None:
        parts.append(f"ready after {run.ready_s:.1f} s")
    if run.ram_peak_bytes is not None:
        parts.append(f"RAM {size(run.ram_peak_bytes)} at most")
    if run.gpu_peak_bytes is not None:
        parts.append(f"GPU {size(run.gpu_peak_bytes)} at most")
    yield ", ".join(parts) + _stale(run)
    for row in run.bench[-LINES:]:
        if row.embeddings_per_s is not None:
            level = Level(
                clients=row.clients, batch=row.batch, tokens=row.tokens, shortest=row.shortest
            )
            yield f"  {_figures(label(level), row)}"


def _stale(each: CitedRun | CitedComparison) -> str:
    return f"; stale: {'; '.join(each.differs[:2])}" if each.stale else ""


def _figures(words: str, row: CitedRow | CitedLevel) -> str:
    seen = (("p50", row.p50_ms), ("p95", row.p95_ms))
    times = [f"{name} {ms:.1f} ms" for name, ms in seen if ms is not None]
    return f"{words}: {row.embeddings_per_s:.1f} texts/s, {', '.join(times)}"
