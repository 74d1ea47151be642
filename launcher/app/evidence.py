"""What this machine knows of a plan: its runs and comparisons, with their age."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from launcher.app import candidates
from launcher.bench import verdict
from launcher.bench.trial import label
from launcher.documents.comparison import Cell, Comparison, Level, Mode
from launcher.documents.plan import Plan
from launcher.paths import Dirs
from launcher.plan.past_runs import Evidence, age, another, differences, evidence
from launcher.units import size

ROW_KEYS = (
    *("clients", "batch", "tokens", "shortest", "loop", "rate", "p50_ms", "p95_ms"),
    *("embeddings_per_s", "tokens_per_s", "ram_peak_bytes", "gpu_peak_bytes", "requests", "errors"),
)
"""Of a bench row, what is cited."""
COMPARISONS = 3
LINES = 3
"""Of each kind that a person is shown."""


def of_plan(plan: Plan, where: Dirs, start: str | None = None) -> dict[str, Any]:
    """The evidence for a plan on this machine, as `plan` and `recommend` print it.

    Args:
        start: the word after `qlaunch up` that starts it, where it is not the profile's name.
    """
    found = evidence(plan, plan.profile, candidates.past_runs(where), start)
    return document(found, plan, where)


def document(found: Evidence, plan: Plan | None, where: Dirs | None) -> dict[str, Any]:
    """The evidence as JSON; `where` is None for a machine one does not sit at."""
    data: dict[str, Any] = msgspec.to_builtins(found)
    for run in data["runs"]:
        run["bench"] = [{key: row.get(key) for key in ROW_KEYS} for row in run["bench"]]
    data["comparisons"] = [] if plan is None or where is None else compared(plan, where)
    return data


def compared(plan: Plan, where: Dirs) -> list[dict[str, Any]]:
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
    out.sort(key=lambda each: bool(each["stale"]))
    return out[:COMPARISONS]


def _comparison(found: Comparison, mode: Mode, plan: Plan, now: datetime) -> dict[str, Any]:
    differs = another(plan, mode.model) + differences(
        plan, version=mode.version, argv=mode.argv, threads=None
    )
    made = datetime.fromisoformat(found.made)
    plain = verdict.baseline(found)
    return {
        "comparison": found.id,
        "mode": mode.name,
        "age_s": max(0.0, (now - made).total_seconds()),
        "complete": found.complete,
        "stale": bool(differs),
        "differs": list(differs),
        "winner": found.winner,
        "gain": None if plain is None else verdict.ratio(found, mode, plain),
        "runs": list(mode.runs),
        "levels": [_level(cell) for cell in mode.cells if cell.embeddings_per_s is not None],
    }


def _level(cell: Cell) -> dict[str, Any]:
    def median(name: str) -> float | None:
        seen = getattr(cell, name)
        return None if seen is None else seen.median

    assert cell.embeddings_per_s is not None
    return {
        "level": label(cell.level),
        "clients": cell.level.clients,
        "batch": cell.level.batch,
        "tokens": cell.level.tokens,
        "shortest": cell.level.shortest,
        "p50_ms": median("p50_ms"),
        "p95_ms": median("p95_ms"),
        "embeddings_per_s": median("embeddings_per_s"),
        "repeats": cell.embeddings_per_s.count,
        "noisy": verdict.is_noisy(cell),
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """The evidence for people, after the line that sums it up."""
    out = [f"evidence  {found['text']}"]
    for run in found["runs"][:LINES]:
        out += [f"  {line}" for line in _run(run)]
    for each in found["comparisons"][:LINES]:
        gain = f", {each['gain']:.1f} × the plain command" if each["gain"] else ""
        ago, stale = age(each["age_s"]), _stale(each)
        out.append(f"  comparison {each['comparison']}, {ago} ago{gain}{stale}")
        out += [f"    {_figures(level['level'], level)}" for level in each["levels"]]
    return out


def _run(run: Mapping[str, Any]) -> Iterable[str]:
    parts = [f"run {run['run']}, {age(run['age_s'])} ago"]
    if run["ready_s"] is not None:
        parts.append(f"ready after {run['ready_s']:.1f} s")
    if run["ram_peak_bytes"] is not None:
        parts.append(f"RAM {size(run['ram_peak_bytes'])} at most")
    if run["gpu_peak_bytes"] is not None:
        parts.append(f"GPU {size(run['gpu_peak_bytes'])} at most")
    yield ", ".join(parts) + _stale(run)
    for row in run["bench"][-LINES:]:
        if row["embeddings_per_s"] is not None:
            level = Level(
                clients=row["clients"],
                batch=row["batch"],
                tokens=row["tokens"],
                shortest=row["shortest"],
            )
            yield f"  {_figures(label(level), row)}"


def _stale(each: Mapping[str, Any]) -> str:
    return f"; stale: {'; '.join(each['differs'][:2])}" if each["stale"] else ""


def _figures(words: str, row: Mapping[str, Any]) -> str:
    times = [f"{name} {row[key]:.1f} ms" for name, key in _TIMES if row[key] is not None]
    return f"{words}: {row['embeddings_per_s']:.1f} texts/s, {', '.join(times)}"


_TIMES = (("p50", "p50_ms"), ("p95", "p95_ms"))
