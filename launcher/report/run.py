"""One life of a service (a run record) as a page, Markdown, CSV and JSON."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from launcher import units
from launcher.argv import grouped
from launcher.documents.comparison import FIGURES, Profile, Row
from launcher.documents.failure import Failure
from launcher.documents.run import Run, Sample
from launcher.documents.service_state import START
from launcher.documents.smoke import Check
from launcher.record.peak import PeakTracker
from launcher.report import flame, formatting
from launcher.report.formatting import ABSENT
from launcher.report.roles import ROLES, by_role
from launcher.units import counted

Doc = Mapping[str, Any]

EVENTS_SHOWN = 200
"""More are in `events.ndjson`."""


@dataclass(frozen=True)
class BenchRow:
    """A row of `bench` as words."""

    level: str
    figures: list[str]
    """In the order of `FIGURES`."""
    ram: str
    gpu: str
    requests: int | str
    notes: str
    stages: list[tuple[str, str, str]]
    """Where the time goes: part, milliseconds a text, share."""
    flame: str
    """A flame graph as SVG; empty where the row has no profile."""


def run_html(
    run: Run, samples: Iterable[Sample], events: Iterable[Doc], bench: Sequence[Row] = ()
) -> str:
    """One self-contained HTML page: no network, no script, light and dark, fit for print."""
    from launcher.report import page, run_charts

    taken = list(samples)
    run = _measured(run, taken)
    return page.render(
        "life.html.j2",
        title=f"{formatting.plain(run.service)}: {formatting.plain(run.outcome)}",
        run=document(run, taken, events, bench),
        verdict=verdict(run),
        rows=[bench_row(row) for row in bench],
        facts=facts(run),
        argv=argv_lines(run),
        timeline=run_charts.timeline(start_phases(run)),
        ram=run_charts.memory_over_time("ram", taken, run),
        gpu=run_charts.memory_over_time("gpu", taken, run),
        events_shown=EVENTS_SHOWN,
    )


def run_markdown(run: Run, samples: Sequence[Sample], bench: Sequence[Row] = ()) -> str:
    """The same as Markdown, for a runbook or an issue."""
    run = _measured(run, samples)
    lines = [f"# {formatting.markdown(run.service)}: {formatting.markdown(run.outcome)}", ""]
    lines += [f"{formatting.markdown(sentence)}  " for sentence in verdict(run)]
    lines += ["", *formatting.markdown_table(("fact", "value"), facts(run), left=2)]
    lines += ["", "## Start", ""]
    phases = [(name, formatting.seconds(length)) for name, _, length in start_phases(run)]
    lines += formatting.markdown_table(("phase", "took"), phases)
    lines += ["", "## Memory", ""]
    peaks = [(role, formatting.size(peak)) for role, peak in _peak_by_role(samples).items()]
    lines += formatting.markdown_table(("process", "RAM peak"), peaks)
    if checks := _checks(run):
        lines += ["", "## Checks", ""]
        rows = [(check.name, "ok" if check.ok else "FAILED", check.detail) for check in checks]
        lines += formatting.markdown_table(("check", "", "detail"), rows, left=3)
    lines += _failure_lines(run.failure)
    lines += _bench_lines(bench)
    if argv_lines(run):
        lines += ["", "## Command", ""]
        lines += [f"- {formatting.code(line)}" for line in argv_lines(run)]
    return "\n".join(lines) + "\n"


def run_csv(samples: Iterable[Sample]) -> str:
    """Memory and CPU over time, a line a sample, by process: bytes, seconds, percent of a core."""
    headings = [
        *("t_s", "ram_bytes", "ram_method", "gpu_bytes", "gpu_method", "cpu_percent"),
        *(f"{role}_{kind}" for role in ROLES for kind in ("ram_bytes", "gpu_bytes")),
    ]

    def row(sample: Sample) -> list[object]:
        by_ram, by_gpu = (by_role(sample, kind) for kind in ("ram", "gpu"))
        return [
            *(sample.t_s, sample.ram_bytes, sample.ram_method),
            *(sample.gpu_bytes, sample.gpu_method, sample.cpu_percent),
            *(by[role] for role in ROLES for by in (by_ram, by_gpu)),
        ]

    return formatting.csv_text(headings, map(row, samples))


def document(
    run: Run, samples: Sequence[Sample], events: Iterable[Doc], bench: Iterable[Row] = ()
) -> Doc:
    """The run record's own fields, and what the report adds: the JSON of `runs report`."""
    whole: Doc = {
        **msgspec.structs.asdict(_measured(run, samples)),
        "plan": run.plan or {},
        "samples": len(samples),
        "peak_by_role": _peak_by_role(samples),
        "checks": _checks(run),
        "events": [dict(event) for event in events],
        "bench": list(bench),
    }
    return msgspec.to_builtins(whole)  # type: ignore[no-any-return]  # a mapping gives one


def _measured(run: Run, samples: Sequence[Sample]) -> Run:
    """Of a running service `run.json` has the peak until it was last written: the samples know."""
    if run.outcome != "running" or not samples:
        return run
    return msgspec.structs.replace(run, peak=PeakTracker(samples).peak())


def _peak_by_role(samples: Iterable[Sample]) -> dict[str, int]:
    peaks: dict[str, int] = {}
    for sample in samples:
        for role, used in by_role(sample, "ram").items():
            if used is not None:
                peaks[role] = max(peaks.get(role, 0), used)
    return {role: peaks[role] for role in ROLES if role in peaks}


def _checks(run: Run) -> tuple[Check, ...]:
    return run.smoke.checks if run.smoke else ()


def verdict(run: Run) -> list[str]:
    """How this life went, a sentence each."""
    return [*_outcome(run), *_memory_words(run), *_trouble(run)]


def _outcome(run: Run) -> list[str]:
    failure, verified, checks = run.failure, run.timings.verified_s, _checks(run)
    sentences = []
    if verified is not None:
        passed = sum(check.ok for check in checks)
        tail = f": {passed} of {len(checks)} checks passed" if checks else ""
        took = formatting.seconds(verified)
        sentences.append(f"Its vectors were proved right {took} after it was asked for{tail}.")
    if failure is not None:
        kind = f" ({failure.failure_class})" if failure.failure_class else ""
        sentences.append(f"It failed{kind}: {failure.message}")
        if failure.fix:
            sentences.append(f"What to do: {failure.fix}")
    elif run.outcome == "running":
        sentences.append("It was still running when this was written, or its end was not recorded.")
    elif verified is None:
        sentences.append(f"It was {run.outcome} before it was verified.")
    return sentences


def _memory_words(run: Run) -> list[str]:
    sentences = []
    for kind, name in (("ram", "RAM"), ("gpu", "GPU memory")):
        peak = getattr(run.peak, f"{kind}_peak_bytes")
        if peak is None:
            continue
        text = f"{name}: {formatting.size(peak)} {units.peak(run.peak.method.get(kind))}"
        foreseen = getattr(run.plan.predicted, f"{kind}_bytes") if run.plan else None
        held = getattr(run.verified_peak, f"{kind}_peak_bytes", None)
        if foreseen is not None and held:
            until = "" if held == peak else f"; {formatting.size(held)} until verified"
            text += f"{until}, predicted {formatting.size(foreseen)}"
            text += f", {units.off(foreseen / held - 1)}"
        sentences.append(f"{text}.")
    return sentences


def _trouble(run: Run) -> list[str]:
    sentences = []
    if run.restarts:
        times = counted(run.restarts, "time")
        sentences.append(f"The engine was started again {times}.")
    sentences += _cache_words(run)
    return sentences + [
        f"Fallback {step.step} of {step.of} after {step.after}: "
        + ", ".join(f"{name} {value}" for name, value in step.flags.items())
        for step in run.fallbacks
    ]


def _cache_words(run: Run) -> list[str]:
    use = run.cache
    if use is None:
        return []
    sentences = []
    if use.hit_rate is not None:
        shared = f", {use.shared} more with another request" if use.shared else ""
        hits = f"{use.hits} of {counted(use.inputs, 'text')} ({use.hit_rate:.0%})"
        sentences.append(f"Its cache answered {hits}{shared}.")
    if use.restarts:
        times = counted(use.restarts, "time")
        sentences.append(f"The gateway was started again {times}.")
    return sentences


def facts(run: Run) -> list[tuple[str, str]]:
    """What ran and when, name and value; what is not known is left out."""
    plan = run.plan
    known = [("run", run.run), ("profile", run.profile), ("began", run.began), ("ended", run.ended)]
    if plan is not None:
        known += [
            ("model", plan.model_name),
            ("model files", plan.model_path),
            ("fingerprint", plan.fingerprint),
            ("device", plan.device),
            ("dtype", plan.expectation.dtype),
            ("pooling", plan.expectation.pooling),
            ("engine", f"{plan.engine.release} {plan.engine.version}"),
        ]
    known += [(name, value) for name, value in run.versions.items() if name != "release"]
    known += [(f"{name} by", _method(run, name.lower())) for name in ("RAM", "GPU")]
    seen: dict[str, str] = {}
    for name, value in known:
        if value:
            seen.setdefault(name, formatting.plain(value))
    return list(seen.items())


def _method(run: Run, kind: str) -> str:
    method = run.peak.method
    how, why = method.get(kind, "unavailable"), method.get(f"{kind}_reason")
    return f"{how}: {why}" if why else how


def start_phases(run: Run) -> list[tuple[str, float, float]]:
    """Name, beginning and length in seconds of the phases of the first start."""
    start: list[tuple[str, float, float]] = []
    for phase, following in itertools.pairwise(run.phases):
        if phase.name not in START:
            break
        start.append((phase.name, phase.t_s, max(0.0, following.t_s - phase.t_s)))
    return start


def argv_lines(run: Run) -> list[str]:
    """The engine's command, an option with its values a line."""
    words = run.plan.engine.argv if run.plan else ()
    return [" ".join(formatting.plain(word) for word in group) for group in grouped(words)]


def bench_row(row: Row) -> BenchRow:
    """A row of `bench`, ready for a table."""
    notes = []
    if row.errors:
        notes.append(f"{counted(row.errors, 'error')}: {formatting.plain(row.error)}")
    if row.saturated:
        notes.append("saturated: the client's limit, not the engine's")
    if row.reason:
        notes.append(formatting.plain(row.reason))
    profile = row.profile or Profile()
    return BenchRow(
        level=formatting.level(formatting.level_of(row)),
        figures=[formatting.figure(getattr(row, name)) for name in FIGURES],
        ram=formatting.size(row.ram_peak_bytes),
        gpu=formatting.size(row.gpu_peak_bytes),
        requests=row.requests or ABSENT,
        notes="; ".join(notes),
        stages=[(each.name, f"{each.ms:.2f}", f"{each.share:.0%}") for each in profile.stages],
        flame=flame.graph(profile.frames),
    )


def _bench_lines(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    headings = ("level", *FIGURES, "RAM", "GPU", "notes")
    table = [(row.level, *row.figures, row.ram, row.gpu, row.notes) for row in map(bench_row, rows)]
    lines = ["", "## Load", "", *formatting.markdown_table(headings, table)]
    for row in map(bench_row, rows):
        if row.stages:
            lines += ["", f"Where the time goes, {row.level}:", ""]
            lines += formatting.markdown_table(("part", "ms a text", "share"), row.stages)
    return lines


def _failure_lines(failure: Failure | None) -> list[str]:
    if failure is None or not failure.evidence:
        return []
    lines = [f"- {formatting.code(line)}" for line in failure.evidence]
    return ["", "## What the log says", "", *lines]
