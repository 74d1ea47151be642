"""What runs on this machine say of a plan: which support it, how old they are, and which do not
any more. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from launcher import argv as command_words
from launcher.documents.comparison import Row
from launcher.documents.evidence import CitedRow, CitedRun, Evidence
from launcher.documents.plan import Plan

CITED: Final = 5
"""Runs that are cited, newest first."""
ELSEWHERE: Final = frozenset({"model-path", "served-model-name", "host", "port", "config"})
"""Options that say where, and not how, a model is served."""
THREADS: Final = "OMP_NUM_THREADS"


class PastRun(msgspec.Struct, frozen=True, kw_only=True):
    """What a run record of this machine says of a profile."""

    run: str
    profile: str
    release: str | None
    version: str | None
    age_s: float
    verified: bool
    """Its vectors were proved right."""
    ready_s: float | None = None
    verified_s: float | None = None
    ram_peak_bytes: int | None = None
    gpu_peak_bytes: int | None = None
    model: str | None = None
    """Name of the model that it served; None where the record does not say."""
    fingerprint: str | None = None
    """Of that model's files; None where the record does not say."""
    argv: tuple[str, ...] = ()
    """What it executed; empty where the record does not say."""
    threads: str | None = None
    bench: tuple[Row, ...] = ()
    """Rows that `bench` measured of it."""


def evidence(
    plan: Plan | None, profile: str, runs: Sequence[PastRun], start: str | None = None
) -> Evidence:
    """The runs of a profile that were proved right, those of this very plan first.

    Args:
        plan: what would run now; None where it cannot be said.
        runs: newest first.
        start: the word after `qlaunch up` that starts the plan, where it is not the profile's name.
    """
    own = [run for run in runs if run.profile == profile and run.verified]
    if not own:
        return Evidence(
            measured=False,
            text=(
                "not measured: no run on this host supports this yet:"
                f" qlaunch up {shlex.quote(start or profile)} proves it"
            ),
        )
    cited = [_cited(plan, run) for run in own]
    cited.sort(key=lambda each: each.stale)  # stable: newest first among equals
    best = cited[0]
    text = (
        f"run {best.run}, {age(best.age_s)} ago, SGLang {best.engine_version}: vectors proved right"
    )
    if best.stale:
        text = f"not measured as it would run now ({_shortly(best.differs)}); {text}"
    return Evidence(
        measured=not best.stale,
        text=text,
        run=best.run,
        engine_version=best.engine_version,
        age_s=best.age_s,
        ready_s=best.ready_s,
        ram_peak_bytes=best.ram_peak_bytes,
        gpu_peak_bytes=best.gpu_peak_bytes,
        runs=tuple(cited[:CITED]),
    )


def _cited(plan: Plan | None, run: PastRun) -> CitedRun:
    differs = differences(plan, version=run.version, argv=run.argv, threads=run.threads)
    if plan is not None:
        differs = (*another(plan, run.model, run.fingerprint), *differs)
    return CitedRun(
        run=run.run,
        age_s=run.age_s,
        stale=bool(differs),
        differs=differs,
        engine_version=run.version,
        ready_s=run.ready_s,
        verified_s=run.verified_s,
        ram_peak_bytes=run.ram_peak_bytes,
        gpu_peak_bytes=run.gpu_peak_bytes,
        bench=tuple(_cited_row(row) for row in run.bench),
    )


def _cited_row(row: Row) -> CitedRow:
    return CitedRow(**{key: getattr(row, key) for key in CitedRow.__struct_fields__})


def another(plan: Plan, model: str | None, fingerprint: str | None = None) -> tuple[str, ...]:
    """What tells the model of a past life from the plan's; nothing where it is the same.

    A fingerprint decides where both have one: a plan from a model card alone has none.
    """
    if model and model != plan.model_name:
        return (f"model {model} then, {plan.model_name} now",)
    if fingerprint and plan.fingerprint and fingerprint != plan.fingerprint:
        return ("other files of the model then",)
    return ()


def differences(
    plan: Plan | None, *, version: str | None, argv: Sequence[str], threads: str | None
) -> tuple[str, ...]:
    """In what a past life differs from what `plan` would run: nothing, and it supports the plan."""
    if plan is None:
        return ("what would run now is not known",)
    out = []
    if version != plan.engine.version:
        out.append(f"SGLang {version} then, {plan.engine.version} now")
    if not argv:
        return tuple(out)
    then, now = options(argv), options(plan.engine.argv)
    out += [
        f"{name}: {_value(then, name)} then, {_value(now, name)} now"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]
    counted = plan.engine.env.get(THREADS)
    if threads is not None and threads != counted:
        out.append(f"{threads} threads then, {counted} now")
    return tuple(out)


def options(argv: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Options of a command line with their values, without those that say only where."""
    values = command_words.options(argv)
    return {f"--{name}": words for name, words in values.items() if name not in ELSEWHERE}


def _value(found: Mapping[str, tuple[str, ...]], name: str) -> str:
    if name not in found:
        return "absent"
    return " ".join(found[name]) or "set"


def _shortly(differs: Sequence[str]) -> str:
    more = f" and {len(differs) - 2} more" if len(differs) > 2 else ""
    return "; ".join(differs[:2]) + more


def age(seconds: float) -> str:
    """A duration in the largest unit that counts: `3 days`, `5 hours`, `40 minutes`."""
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        count = int(seconds // length)
        if count:
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "less than a minute"
