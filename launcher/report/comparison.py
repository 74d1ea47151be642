"""A comparison of modes (`qlaunch compare`) as a page, Markdown and CSV.

The document is the one of `compare --json`. A mode that was not measured stands in the
table of the modes, with the reason and without a figure; why, is said there once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from launcher import units
from launcher.report import formatting
from launcher.report.formatting import ABSENT

Doc = Mapping[str, Any]

FIGURES = (
    ("mean_ms", "mean", "ms"),
    ("p50_ms", "p50", "ms"),
    ("p95_ms", "p95", "ms"),
    ("p99_ms", "p99", "ms"),
    ("embeddings_per_s", "embeddings/s", ""),
    ("tokens_per_s", "tokens/s", ""),
)
"""Figures of a cell, with their headings."""
NOT_MEASURED = "not measured"


def comparison_html(doc: Doc) -> str:
    """One self-contained HTML page: no network, no script, light and dark, fit for print."""
    from launcher.report import charts, page

    return page.render(
        "comparison.html.j2",
        title=title(doc),
        doc=doc,
        verdict=verdict(doc),
        headings=FIGURES,
        modes=[mode_row(mode) for mode in doc["modes"]],
        levels=[level_group(doc, level) for level in doc["levels"]],
        notes=notes(doc),
        machine=machine(doc),
        throughput=charts.throughput(doc),
        memory=charts.memory_bars(doc),
    )


def comparison_markdown(doc: Doc) -> str:
    """The same as Markdown, for a runbook or a pull request."""
    lines = [f"# {formatting.markdown(title(doc))}", ""]
    lines += [f"{formatting.markdown(sentence)}  " for sentence in verdict(doc)]
    lines += ["", "## Modes", "", *_modes_table(doc)]
    lines += ["", "## Latency and throughput", ""]
    lines += ["Medians over the repeats; in parentheses least and most.", ""]
    for level in doc["levels"]:
        lines += [f"### {formatting.level(level)}", "", *_level_table(doc, level), ""]
    lines += ["## How it was measured", ""]
    lines += [f"- {formatting.markdown(note)}" for note in notes(doc)]
    lines += [f"- {name}: {formatting.markdown(value)}" for name, value in machine(doc)]
    for mode in doc["modes"]:
        if mode.get("argv"):
            argv = " ".join(mode["argv"])
            lines += ["", f"{formatting.markdown(mode['name'])}: {formatting.code(argv)}"]
    return "\n".join(lines) + "\n"


def comparison_csv(doc: Doc) -> str:
    """One line a mode and level; a mode that was not measured has its reason and no figures."""
    spreads = [f"{name}_{part}" for name, _, _ in FIGURES for part in ("median", "least", "most")]
    headings = [
        *("mode", "kind", "outcome", "reason", "profile", "model", "device", "dtype", "version"),
        *("loop", "clients", "batch", "tokens", "shortest", "rate"),
        *spreads,
        *("repeats", "ram_peak_bytes", "gpu_peak_bytes", "errors", "saturated"),
        *("cosine_min", "recall_at_10", "ready_s", "verified_s", "predicted_ram_bytes"),
        *("predicted_gpu_bytes", "life_ram_peak_bytes", "life_gpu_peak_bytes", "runs"),
    ]
    return formatting.csv_text(headings, _csv_rows(doc))


def title(doc: Doc) -> str:
    """What the page is of."""
    names = [formatting.plain(mode["name"]) for mode in doc["modes"]]
    return f"Comparison: {', '.join(names)}" if names else "Comparison"


def verdict(doc: Doc) -> list[str]:
    """The outcome in words; where it ended early, that first."""
    found = []
    if not doc["complete"]:
        why = doc.get("interrupted") or "it did not finish"
        found.append(f"Not complete: {why}. What was measured until then is shown below.")
    found += doc.get("verdict") or ["No verdict: nothing was measured that could be compared."]
    again = doc.get("remeasured")
    if again and not any(sentence.startswith("Measured again") for sentence in found):
        unit = "ms" if again.get("figure") == "p50_ms" else "embeddings/s"
        found.append(
            f"Measured once more, {again['mode']} gave {formatting.figure(again['again'])} {unit}"
            f" at {formatting.level(again['level'])} (first: {formatting.figure(again['first'])})."
        )
    return found


def notes(doc: Doc) -> list[str]:
    """What to know before believing the figures."""
    repeats = doc["repeats"]
    found = [
        f"made {doc['made']}",
        f"{repeats} repeat{'' if repeats == 1 else 's'} a level: medians, with least and most",
    ]
    if any(cell.get("saturated") for mode in doc["modes"] for cell in mode.get("cells", ())):
        found.append("saturated: the measuring client was at its own limit, not the engine's")
    if any(is_noisy(cell) for mode in doc["modes"] for cell in mode.get("cells", ())):
        found.append("noisy: least and most are further apart than 15 % of the median")
    return [*found, *(doc.get("notes") or ())]


def machine(doc: Doc) -> list[tuple[str, str]]:
    """The machine and the versions, name and value."""
    both = {**(doc.get("machine") or {}), **(doc.get("versions") or {})}
    return [(name, _value(name, value)) for name, value in both.items() if value is not None]


def _value(name: str, value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(formatting.plain(part) for part in value) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {formatting.plain(part)}" for key, part in value.items())
    if isinstance(value, (int, float)) and name.endswith("_bytes"):
        return formatting.size(value)
    return formatting.plain(value)


def cell_of(mode: Doc, level: Doc) -> Doc | None:
    """What a mode gave at a level, None where it was not measured there."""
    return next((cell for cell in mode.get("cells", ()) if cell["level"] == level), None)


def is_noisy(cell: Doc) -> bool:
    """Whether any of its figures is."""
    return any((cell.get(name) or {}).get("noisy") for name, _, _ in FIGURES)


def flags(cell: Doc) -> list[str]:
    """What qualifies the figures of a cell."""
    found = []
    if cell.get("errors"):
        found.append(f"{cell['errors']} error{'' if cell['errors'] == 1 else 's'}")
    if cell.get("saturated"):
        found.append("saturated")
    if is_noisy(cell):
        found.append("noisy")
    return found


def why_not(mode: Doc) -> str:
    """Why a mode has no figures, or not all; empty where it has."""
    reason = formatting.plain(mode.get("reason"))
    if mode["outcome"] == "measured":
        return reason
    outcome = formatting.OUTCOMES.get(mode["outcome"], formatting.plain(mode["outcome"]))
    return f"{outcome}: {reason}" if reason else outcome


def measured(mode: Doc) -> bool:
    """Whether a mode has any figure to show."""
    return mode["outcome"] in {"measured", "partial"}


def mode_row(mode: Doc) -> dict[str, Any]:
    """A mode, ready for a table of modes."""
    quality = mode.get("quality") or {}
    predicted = mode.get("predicted") or {}
    measured_ram = mode.get("verified_ram_bytes")
    foreseen = predicted.get("ram_bytes")
    return {
        "name": formatting.plain(mode["name"]),
        "kind": mode["kind"],
        "outcome": formatting.OUTCOMES.get(mode["outcome"], mode["outcome"]),
        "measured": measured(mode),
        "why": why_not(mode),
        "what": " · ".join(
            formatting.plain(mode[key])
            for key in ("model", "device", "dtype", "release", "version")
            if mode.get(key)
        ),
        "start": _start(mode),
        "ram": formatting.size(mode.get("ram_peak_bytes")),
        "gpu": formatting.size(mode.get("gpu_peak_bytes")),
        "method": mode.get("memory_method") or {},
        "verified_ram": formatting.size(measured_ram),
        "predicted_ram": formatting.size(foreseen),
        "predicted_gpu": formatting.size(predicted.get("gpu_bytes")),
        "off": units.off(foreseen / measured_ram - 1)
        if foreseen is not None and measured_ram
        else "",
        "cosine": f"{quality['cosine_min']:.5f}"
        if quality.get("cosine_min") is not None
        else ABSENT,
        "recall": f"{quality['recall_at_10']:.3f}"
        if quality.get("recall_at_10") is not None
        else ABSENT,
        "quality_reason": formatting.plain(quality.get("reason")),
        "argv": list(mode.get("argv") or ()),
        "runs": list(mode.get("runs") or ()),
    }


def _start(mode: Doc) -> str:
    found = mode.get("verified_s") or mode.get("ready_s")
    return formatting.seconds(found["median"]) if found else ABSENT


def level_group(doc: Doc, level: Doc) -> dict[str, Any]:
    """A level with a row for every mode that has figures, the best of each column marked.

    Why a mode has none stands in the table of the modes, once.
    """
    best = best_of(doc, level)
    rows = []
    for mode in filter(measured, doc["modes"]):
        cell = cell_of(mode, level)
        rows.append(
            {
                "name": formatting.plain(mode["name"]),
                "why": "" if cell else NOT_MEASURED,
                "cells": [
                    (*formatting.spread(cell.get(name)), best.get(name) == mode["name"])
                    for name, _, _ in FIGURES
                ]
                if cell
                else [],
                "ram": formatting.size(cell.get("ram_peak_bytes")) if cell else ABSENT,
                "gpu": formatting.size(cell.get("gpu_peak_bytes")) if cell else ABSENT,
                "flags": flags(cell) if cell else [],
            }
        )
    return {"title": formatting.level(level), "rows": rows}


def best_of(doc: Doc, level: Doc) -> dict[str, str]:
    """Name of the best mode, by figure; none where only one mode has it."""
    best = {}
    for name, _, unit in FIGURES:
        found = [
            (cell[name]["median"], mode["name"])
            for mode in doc["modes"]
            if (cell := cell_of(mode, level)) and cell.get(name) and not cell.get("errors")
        ]
        if len(found) > 1:
            best[name] = (min(found) if unit == "ms" else max(found))[1]
    return best


def _modes_table(doc: Doc) -> list[str]:
    headings = [
        *("mode", "what", "RAM peak", "predicted", "GPU peak", "start"),
        *("cosine, least", "recall@10"),
    ]
    rows: list[tuple[object, ...]] = []
    for row in map(mode_row, doc["modes"]):
        if row["measured"]:
            foreseen = f"{row['predicted_ram']} ({row['off']})" if row["off"] else ABSENT
            what = f"{row['what']} ({row['why']})" if row["why"] else row["what"]
            figures = (row["ram"], foreseen, row["gpu"], row["start"], row["cosine"], row["recall"])
            rows.append((row["name"], what, *figures))
        else:
            rows.append((row["name"], row["why"], *[ABSENT] * 6))
    return formatting.markdown_table(headings, rows, left=2)


def _level_table(doc: Doc, level: Doc) -> list[str]:
    headings = ["mode", *(f"{name} ({unit})" if unit else name for _, name, unit in FIGURES)]
    rows = []
    for mode in filter(measured, doc["modes"]):
        cell = cell_of(mode, level)
        if cell is None:
            rows.append([mode["name"], *[ABSENT] * (len(FIGURES) + 2), NOT_MEASURED])
            continue
        texts = [
            f"{median} ({around})" if around else median
            for median, around in (formatting.spread(cell.get(name)) for name, _, _ in FIGURES)
        ]
        memory = [formatting.size(cell.get(f"{kind}_peak_bytes")) for kind in ("ram", "gpu")]
        rows.append([mode["name"], *texts, *memory, ", ".join(flags(cell))])
    return formatting.markdown_table([*headings, "RAM", "GPU", "notes"], rows)


def _csv_rows(doc: Doc) -> Iterator[list[object]]:
    for mode in doc["modes"]:
        for level in doc["levels"]:
            yield _csv_row(mode, level, cell_of(mode, level) or {})


def _csv_row(mode: Doc, level: Doc, cell: Doc) -> list[object]:
    quality, predicted = mode.get("quality") or {}, mode.get("predicted") or {}
    figures: list[object] = []
    for name, _, _ in FIGURES:
        found = cell.get(name) or {}
        figures += [found.get(part) for part in ("median", "least", "most")]
    counts = [(cell.get(name) or {}).get("count", 0) for name, _, _ in FIGURES]
    return [
        *(mode.get(key) for key in ("name", "kind", "outcome", "reason", "profile", "model")),
        *(mode.get(key) for key in ("device", "dtype", "version")),
        *(level.get(key) for key in ("loop", "clients", "batch", "tokens", "shortest", "rate")),
        *figures,
        max(counts) if cell else None,
        *(cell.get(key) for key in ("ram_peak_bytes", "gpu_peak_bytes", "errors", "saturated")),
        *(quality.get(key) for key in ("cosine_min", "recall_at_10")),
        *((mode.get(key) or {}).get("median") for key in ("ready_s", "verified_s")),
        *(predicted.get(key) for key in ("ram_bytes", "gpu_bytes")),
        *(mode.get(key) for key in ("ram_peak_bytes", "gpu_peak_bytes")),
        " ".join(mode.get("runs") or ()),
    ]
