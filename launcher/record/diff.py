"""What differs between two run records. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from launcher.argv import grouped
from launcher.documents.comparison import FIGURES, Row
from launcher.documents.plan import Plan
from launcher.documents.run import Run
from launcher.documents.run_diff import (
    Change,
    CheckChange,
    CheckResult,
    Figure,
    LevelFigures,
    MeasuredLevel,
    RunDiff,
    RunName,
    SameVectors,
    WordChange,
)

LEVEL = MeasuredLevel.__struct_fields__


def diff(a: Run, b: Run, bench_a: Iterable[Row] = (), bench_b: Iterable[Row] = ()) -> RunDiff:
    """The differences of `b` from `a`."""
    argvs = [run.plan.engine.argv if run.plan else () for run in (a, b)]
    envs = [run.plan.engine.env if run.plan else {} for run in (a, b)]
    return RunDiff(
        a=_name(a),
        b=_name(b),
        argv=tuple(argv_changes(*argvs)),
        env=_changes(*envs),
        settings=_changes(_settings(a.plan), _settings(b.plan)),
        versions=_changes(a.versions, b.versions),
        vectors=vectors(a, b),
        figures=tuple(_figures(a, b)),
        checks=tuple(_checks(a, b)),
        bench=tuple(_bench(list(bench_a), list(bench_b))),
    )


def _name(run: Run) -> RunName:
    return RunName(**{key: getattr(run, key) for key in RunName.__struct_fields__})


def argv_changes(a: Sequence[str], b: Sequence[str]) -> list[WordChange]:
    """Word by word, in order.

    An option and its value belong together: `--dtype bfloat16` against `--dtype float32` is one
    replaced option.
    """
    left, right = grouped(a), grouped(b)
    found = []
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    for kind, i1, i2, j1, j2 in matcher.get_opcodes():
        if kind == "equal":
            continue
        gone, come = list(left[i1:i2]), list(right[j1:j2])
        names = {option[0]: option for option in come}
        for option in gone:
            other = names.pop(option[0], None)
            if other is not None:
                come.remove(other)
            found.append(_change(option, other))
        found += [_change(None, option) for option in come]
    return found


def _change(a: tuple[str, ...] | None, b: tuple[str, ...] | None) -> WordChange:
    return WordChange(
        change="replaced" if a and b else "removed" if a else "added",
        a=" ".join(a) if a else None,
        b=" ".join(b) if b else None,
    )


def _settings(plan: Plan | None) -> Mapping[str, object]:
    """What a plan decided beyond its command, flat."""
    if plan is None:
        return {}
    names = ("profile", "device", "model_name", "model_path", "fingerprint", "host")
    expected = ("dtype", "pooling", "dimensions", "context_length", "max_running_requests")
    flat = {key: getattr(plan, key) for key in names}
    return flat | {key: getattr(plan.expectation, key) for key in expected}


def _changes(a: Mapping[str, object], b: Mapping[str, object]) -> tuple[Change, ...]:
    return tuple(
        Change(name=name, a=a.get(name), b=b.get(name))
        for name in {**a, **b}
        if a.get(name) != b.get(name)
    )


def vectors(a: Run, b: Run) -> SameVectors:
    """Whether one index may hold the vectors of both."""
    same, reason = _same_vectors(a, b)
    return SameVectors(same=same, reason=reason, sample_distance=_distance(a, b))


def _same_vectors(a: Run, b: Run) -> tuple[bool | None, str]:
    """`SameVectors.same`, and why."""
    if a.plan is None or b.plan is None:
        return None, "a record has no plan"
    if a.plan.fingerprint != b.plan.fingerprint:
        return False, "the checkpoint is another one"
    if (other := _shaped_otherwise(a.plan, b.plan)) is not None:
        return False, other
    for name, run in (("A", a), ("B", b)):
        if (missing := _unproved(run)) is not None:
            return None, f"run {name} {missing}"
    assert a.smoke is not None
    assert b.smoke is not None
    worst = " and ".join(f"{each:.5f}" for each in (a.smoke.worst_cosine, b.smoke.worst_cosine))
    return True, f"one checkpoint, worst cosine with its float32 reference {worst}"


def _shaped_otherwise(a: Plan, b: Plan) -> str | None:
    """What makes other vectors of the same checkpoint; None where nothing does."""
    for name in ("pooling", "dimensions", "normalize"):
        one, two = (getattr(plan.expectation, name) for plan in (a, b))
        if one != two:
            return f"{name} was {one} and is {two}"
    return None


def _unproved(run: Run) -> str | None:
    """Why the vectors of a run are not known to be the checkpoint's; None where they are."""
    if run.smoke is None:
        return "has no smoke"
    if not run.smoke.ok:
        return "failed its smoke"
    return "was not held against the reference" if run.smoke.worst_cosine is None else None


def _distance(a: Run, b: Run) -> float | None:
    one, two = (run.smoke.sample if run.smoke else () for run in (a, b))
    if not one or len(one) != len(two):
        return None
    return max(abs(x - y) for x, y in zip(one, two, strict=True))


def _figures(a: Run, b: Run) -> list[Figure]:
    runs = (a, b)
    figures = [
        _pair("ready_s", a.timings.ready_s, b.timings.ready_s),
        _pair("verified_s", a.timings.verified_s, b.timings.verified_s),
    ]
    for kind in ("ram", "gpu"):
        peak, predicted = f"{kind}_peak_bytes", f"{kind}_bytes"
        methods = tuple(run.peak.method.get(kind) for run in runs)
        verified = [getattr(run.verified_peak, peak, None) for run in runs]
        foreseen = [getattr(run.plan.predicted, predicted) if run.plan else None for run in runs]
        figures += [
            _pair(peak, *(getattr(run.peak, peak) for run in runs), methods=methods),
            _pair(f"verified_{peak}", *verified),
            _pair(f"predicted_{predicted}", *foreseen),
        ]
    figures.append(_pair("restarts", a.restarts, b.restarts))
    return [figure for figure in figures if figure.a is not None or figure.b is not None]


def _pair(
    name: str,
    a: float | None,
    b: float | None,
    *,
    methods: tuple[str | None, ...] | msgspec.UnsetType = msgspec.UNSET,
) -> Figure:
    ratio = None if a is None or b is None or a == 0 else round(b / a, 4)
    return Figure(name=name, a=a, b=b, ratio=ratio, methods=methods)


def _checks(a: Run, b: Run) -> Iterator[CheckChange]:
    """Checks with another result or another detail."""
    before, after = map(_results, (a, b))
    for name in {**before, **after}:
        if before.get(name) != after.get(name):
            yield CheckChange(name=name, a=before.get(name), b=after.get(name))


def _results(run: Run) -> dict[str, CheckResult]:
    checks = run.smoke.checks if run.smoke else ()
    return {check.name: CheckResult(ok=check.ok, detail=check.detail) for check in checks}


def _bench(a: Sequence[Row], b: Sequence[Row]) -> Iterator[LevelFigures]:
    """Rows by level; of several of one level the last one counts."""
    rows = [{tuple(getattr(row, key) for key in LEVEL): row for row in each} for each in (a, b)]
    levels = [*rows[0], *(level for level in rows[1] if level not in rows[0])]
    for level in levels:
        figures = (
            _pair(name, *(getattr(each.get(level), name, None) for each in rows))
            for name in FIGURES
        )
        known = MeasuredLevel(**dict(zip(LEVEL, level, strict=True)))
        yield LevelFigures(level=known, figures=tuple(figures))
