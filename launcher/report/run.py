"""One life of a service (a run record) as a page, Markdown, CSV and JSON."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from launcher.documents.run import Run, Sample
from launcher.record.peak import PeakTracker
from launcher.report import formatting
from launcher.report.formatting import ABSENT
from launcher.report.roles import ROLES, by_role

Doc = Mapping[str, Any]

EVENTS_SHOWN = 200
"""More are in `events.ndjson`."""
ROW_FIGURES = ("mean_ms", "p50_ms", "p95_ms", "p99_ms", "embeddings_per_s", "tokens_per_s")
_START = {"starting", "loading", "warming", "verifying"}


def run_html(
    run: Run, samples: Iterable[Sample], events: Iterable[Doc], bench: Iterable[Doc] = ()
) -> str:
    """One self-contained HTML page: no network, no script, light and dark, fit for print."""
    from launcher.report import page, run_charts

    taken = list(samples)
    doc = document(run, taken, events, bench)
    return page.render(
        "life.html.j2",
        title=f"{formatting.plain(run.service)}: {formatting.plain(run.outcome)}",
        run=doc,
        verdict=verdict(doc),
        rows=[bench_row(row) for row in doc["bench"]],
        facts=facts(doc),
        argv=argv_lines(doc),
        timeline=run_charts.timeline(start_phases(doc)),
        ram=run_charts.memory_over_time("ram", taken, doc),
        gpu=run_charts.memory_over_time("gpu", taken, doc),
        events_shown=EVENTS_SHOWN,
    )


def run_markdown(
    run: Run, samples: Iterable[Sample], events: Iterable[Doc], bench: Iterable[Doc] = ()
) -> str:
    """The same as Markdown, for a runbook or an issue."""
    doc = document(run, samples, events, bench)
    lines = [f"# {formatting.markdown(run.service)}: {formatting.markdown(run.outcome)}", ""]
    lines += [f"{formatting.markdown(sentence)}  " for sentence in verdict(doc)]
    lines += ["", *formatting.markdown_table(("fact", "value"), facts(doc), left=2)]
    lines += ["", "## Start", ""]
    phases = [(name, formatting.seconds(length)) for name, _, length in start_phases(doc)]
    lines += formatting.markdown_table(("phase", "took"), phases)
    lines += ["", "## Memory", ""]
    peaks = [(role, formatting.size(peak)) for role, peak in doc["peak_by_role"].items()]
    lines += formatting.markdown_table(("process", "RAM at most"), peaks)
    if doc["checks"]:
        lines += ["", "## Checks", ""]
        rows = [(c["name"], "ok" if c["ok"] else "FAILED", c["detail"]) for c in doc["checks"]]
        lines += formatting.markdown_table(("check", "", "detail"), rows, left=3)
    lines += _failure_lines(doc["failure"])
    lines += _bench_lines(doc["bench"])
    if argv_lines(doc):
        lines += ["", "## Command", ""]
        lines += [f"- {formatting.code(line)}" for line in argv_lines(doc)]
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
    run: Run, samples: Iterable[Sample], events: Iterable[Doc], bench: Iterable[Doc] = ()
) -> dict[str, Any]:
    """The run record's own fields, and what the report adds: the JSON of `runs report`."""
    doc: dict[str, Any] = msgspec.to_builtins(run)
    smoke = run.smoke or {}
    peaks: dict[str, int] = {}
    count, tracker = 0, PeakTracker()
    for sample in samples:
        count += 1
        tracker.add(sample)
        for role, used in by_role(sample, "ram").items():
            if used is not None:
                peaks[role] = max(peaks.get(role, 0), used)
    if run.outcome == "running" and count:  # `run.json` has the peak until it was last written
        doc["peak"] = msgspec.to_builtins(tracker.peak())
    doc |= {
        "samples": count,
        "peak_by_role": {role: peaks[role] for role in ROLES if role in peaks},
        "checks": list(smoke.get("checks") or ()),
        "events": [dict(event) for event in events],
        "bench": [dict(row) for row in bench],
    }
    return doc


def verdict(doc: Doc) -> list[str]:
    """How this life went, a sentence each."""
    return [*_outcome(doc), *_memory_words(doc), *_trouble(doc)]


def _outcome(doc: Doc) -> list[str]:
    failure = doc.get("failure") or {}
    verified = (doc.get("timings") or {}).get("verified_s")
    found = []
    if verified is not None:
        checks = [check for check in doc["checks"] if check["ok"]]
        passed = f": {len(checks)} of {len(doc['checks'])} checks passed" if doc["checks"] else ""
        took = formatting.seconds(verified)
        found.append(f"Its vectors were proved right {took} after it was asked for{passed}.")
    if failure:
        kind = f" ({failure['failure_class']})" if failure.get("failure_class") else ""
        found.append(f"It failed{kind}: {failure.get('message')}")
        if failure.get("fix"):
            found.append(f"What to do: {failure['fix']}")
    elif doc["outcome"] == "running":
        found.append("It was still running when this was written, or its end was not recorded.")
    elif verified is None:
        found.append(f"It was {doc['outcome']} before it was verified.")
    return found


def _memory_words(doc: Doc) -> list[str]:
    found = []
    predicted = (doc.get("plan") or {}).get("predicted") or {}
    verified = doc.get("verified_peak") or {}
    for kind, name in (("ram", "RAM"), ("gpu", "GPU memory")):
        peak = doc["peak"].get(f"{kind}_peak_bytes")
        if peak is None:
            continue
        text = f"{name}: {formatting.size(peak)} at most ({doc['peak']['method'].get(kind)})"
        foreseen, held = predicted.get(f"{kind}_bytes"), verified.get(f"{kind}_peak_bytes")
        if foreseen is not None and held:
            off = formatting.percent(foreseen / held - 1)
            text += f"; until verified {formatting.size(held)},"
            text += f" predicted {formatting.size(foreseen)} ({off})"
        found.append(f"{text}.")
    return found


def _trouble(doc: Doc) -> list[str]:
    found = []
    if doc.get("restarts"):
        times = doc["restarts"]
        found.append(f"The engine was started again {times} time{'' if times == 1 else 's'}.")
    return found + [
        f"Fallback {step.get('step')} of {step.get('of')} after {step.get('after')}: "
        + ", ".join(f"{name} {value}" for name, value in (step.get("flags") or {}).items())
        for step in doc.get("fallbacks") or ()
    ]


def facts(doc: Doc) -> list[tuple[str, str]]:
    """What ran and when, name and value; what is not known is left out."""
    plan = doc.get("plan") or {}
    expectation = plan.get("expectation") or {}
    engine = plan.get("engine") or {}
    found = [
        ("run", doc["run"]),
        ("profile", doc["profile"]),
        ("began", doc["began"]),
        ("ended", doc["ended"]),
        ("model", plan.get("model_name")),
        ("model files", plan.get("model_path")),
        ("fingerprint", plan.get("fingerprint")),
        ("device", plan.get("device")),
        ("dtype", expectation.get("dtype")),
        ("pooling", expectation.get("pooling")),
        ("engine", " ".join(filter(None, (engine.get("release"), engine.get("version"))))),
        *((name, value) for name, value in doc["versions"].items() if name != "release"),
        *((f"{name} by", _method(doc, name.lower())) for name in ("RAM", "GPU")),
    ]
    seen: dict[str, str] = {}
    for name, value in found:
        if value:
            seen.setdefault(name, formatting.plain(value))
    return list(seen.items())


def _method(doc: Doc, kind: str) -> str:
    method = doc["peak"]["method"]
    how, why = method.get(kind, "unavailable"), method.get(f"{kind}_reason")
    return f"{how}: {why}" if why else how


def start_phases(doc: Doc) -> list[tuple[str, float, float]]:
    """Name, beginning and length in seconds of the phases of the first start."""
    phases = doc["phases"]
    found = []
    for phase, following in itertools.pairwise(phases):
        if phase["name"] not in _START:
            break
        found.append((phase["name"], phase["t_s"], max(0.0, following["t_s"] - phase["t_s"])))
    return found


def argv_lines(doc: Doc) -> list[str]:
    """The engine's command, an option with its values a line."""
    lines: list[str] = []
    for word in ((doc.get("plan") or {}).get("engine") or {}).get("argv") or ():
        if word.startswith("--") or not lines:
            lines.append(formatting.plain(word))
        else:
            lines[-1] += f" {formatting.plain(word)}"
    return lines


def bench_row(row: Doc) -> dict[str, Any]:
    """A row of `bench`, ready for a table."""
    notes = []
    if row.get("errors"):
        notes.append(f"{row['errors']} errors: {formatting.plain(row.get('error'))}")
    if row.get("saturated"):
        notes.append("saturated: the client's limit, not the engine's")
    if row.get("reason"):
        notes.append(formatting.plain(row["reason"]))
    return {
        "level": formatting.level(row),
        "figures": [formatting.figure(row.get(name)) for name in ROW_FIGURES],
        "ram": formatting.size(row.get("ram_peak_bytes")),
        "gpu": formatting.size(row.get("gpu_peak_bytes")),
        "requests": row.get("requests") or ABSENT,
        "notes": "; ".join(notes),
    }


def _bench_lines(rows: Sequence[Doc]) -> list[str]:
    if not rows:
        return []
    headings = ("level", *ROW_FIGURES, "RAM", "GPU", "notes")
    table = [
        (row["level"], *row["figures"], row["ram"], row["gpu"], row["notes"])
        for row in map(bench_row, rows)
    ]
    return ["", "## Load", "", *formatting.markdown_table(headings, table)]


def _failure_lines(failure: Doc | None) -> list[str]:
    if not failure or not failure.get("evidence"):
        return []
    lines = [f"- {formatting.code(line)}" for line in failure["evidence"]]
    return ["", "## What the log says", "", *lines]
