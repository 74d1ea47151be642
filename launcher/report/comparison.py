"""A comparison of modes (`qlaunch compare`) as a page, Markdown and CSV.

The document is the one of `compare --json`. A mode that was not measured stands in the
table of the modes, with the reason and without a figure; why, is said there once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from launcher import units
from launcher.documents.comparison import Cell, Comparison, FigureName, Level, Mode, Quality, Spread
from launcher.report import formatting, seed_table
from launcher.report.formatting import ABSENT, NOT_MEASURED

FIGURES: Final[tuple[tuple[FigureName, str, str], ...]] = (
    ("mean_ms", "mean", "ms"),
    ("p50_ms", "p50", "ms"),
    ("p95_ms", "p95", "ms"),
    ("p99_ms", "p99", "ms"),
    ("embeddings_per_s", "embeddings/s", ""),
    ("tokens_per_s", "tokens/s", ""),
)
"""Figures of a cell, with their headings."""


def comparison_html(doc: Comparison, *, seed: bool = False) -> str:
    """One self-contained HTML page: no network, no script, light and dark, fit for print.

    Args:
        doc: what was measured.
        seed: with the table that the project started from.
    """
    from launcher.report import charts, page

    return page.render(
        "comparison.html.j2",
        title=title(doc),
        doc=doc,
        verdict=verdict(doc),
        headings=FIGURES,
        modes=[mode_row(mode) for mode in doc.modes],
        levels=[level_group(doc, level) for level in doc.levels],
        notes=notes(doc),
        machine=machine(doc),
        seed=seed_table if seed else None,
        seed_rows=seed_table.texts(doc) if seed else (),
        throughput=charts.throughput(doc),
        memory=charts.memory_bars(doc),
    )


def comparison_markdown(doc: Comparison, *, seed: bool = False) -> str:
    """The same as Markdown, for a runbook or a pull request."""
    lines = [f"# {formatting.markdown(title(doc))}", ""]
    lines += [f"{formatting.markdown(sentence)}  " for sentence in verdict(doc)]
    lines += ["", "## Modes", "", *_modes_table(doc)]
    lines += ["", "## Latency and throughput", ""]
    lines += ["Medians over the repeats; in parentheses least and most.", ""]
    for level in doc.levels:
        lines += [f"### {formatting.level(level)}", "", *_level_table(doc, level), ""]
    if seed:
        lines += [f"## {seed_table.TITLE}", "", formatting.markdown(seed_table.CAPTION), ""]
        table = formatting.markdown_table(seed_table.HEADINGS, seed_table.texts(doc), left=2)
        lines += [*table, ""]
    lines += ["## How it was measured", ""]
    lines += [f"- {formatting.markdown(note)}" for note in notes(doc)]
    lines += [f"- {name}: {formatting.markdown(value)}" for name, value in machine(doc)]
    for mode in doc.modes:
        if mode.argv:
            argv = " ".join(mode.argv)
            lines += ["", f"{formatting.markdown(mode.name)}: {formatting.code(argv)}"]
    return "\n".join(lines) + "\n"


def comparison_csv(doc: Comparison) -> str:
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


def title(doc: Comparison) -> str:
    """What the page is of."""
    names = [formatting.plain(mode.name) for mode in doc.modes]
    return f"Comparison: {', '.join(names)}" if names else "Comparison"


def verdict(doc: Comparison) -> list[str]:
    """The outcome in words; where it ended early, that first."""
    found = []
    if not doc.complete:
        why = doc.interrupted or "it did not finish"
        found.append(f"Not complete: {why}. What was measured until then is shown below.")
    found += doc.verdict or ["No verdict: nothing was measured that could be compared."]
    again = doc.remeasured
    if again and not any(sentence.startswith("Measured again") for sentence in found):
        unit = "ms" if again.figure == "p50_ms" else "embeddings/s"
        found.append(
            f"Measured once more, {again.mode} gave {formatting.figure(again.again)} {unit}"
            f" at {formatting.level(again.level)} (first: {formatting.figure(again.first)})."
        )
    return found


def notes(doc: Comparison) -> list[str]:
    """What to know before believing the figures."""
    repeats = doc.repeats
    found = [
        f"made {doc.made}",
        f"{units.counted(repeats, 'repeat')} a level: medians, with least and most",
    ]
    if any(cell.saturated for mode in doc.modes for cell in mode.cells):
        found.append("saturated: the measuring client was at its own limit, not the engine's")
    if any(is_noisy(cell) for mode in doc.modes for cell in mode.cells):
        found.append("noisy: least and most are further apart than 15 % of the median")
    return [*found, *doc.notes]


def machine(doc: Comparison) -> list[tuple[str, str]]:
    """The machine and the versions, name and value."""
    both = {**msgspec.structs.asdict(doc.machine), **doc.versions}
    return [(name, _value(name, value)) for name, value in both.items() if value is not None]


def _value(name: str, value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(formatting.plain(part) for part in value) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {formatting.plain(part)}" for key, part in value.items())
    if isinstance(value, (int, float)) and name.endswith("_bytes"):
        return formatting.size(value)
    return formatting.plain(value)


def spread_of(cell: Cell, name: FigureName) -> Spread | None:
    """A figure of a cell by its name."""
    found: Spread | None = getattr(cell, name)
    return found


def is_noisy(cell: Cell) -> bool:
    """Whether any of its figures is."""
    spreads = (spread_of(cell, name) for name, _, _ in FIGURES)
    return any(spread.noisy for spread in spreads if spread is not None)


def flags(cell: Cell) -> list[str]:
    """What qualifies the figures of a cell."""
    found = []
    if cell.errors:
        found.append(units.counted(cell.errors, "error"))
    if cell.saturated:
        found.append("saturated")
    if is_noisy(cell):
        found.append("noisy")
    return found


def why_not(mode: Mode) -> str:
    """Why a mode has no figures, or not all; empty where it has."""
    reason = formatting.plain(mode.reason)
    if mode.outcome == "measured":
        return reason
    outcome = formatting.OUTCOMES.get(mode.outcome, formatting.plain(mode.outcome))
    return f"{outcome}: {reason}" if reason else outcome


def measured(mode: Mode) -> bool:
    """Whether a mode has any figure to show."""
    return mode.outcome in {"measured", "partial"}


@dataclass(frozen=True)
class ModeRow:
    """A mode, ready for a table of modes: everything but `measured` as it is shown."""

    name: str
    measured: bool
    """Whether it has any figure to show."""
    why: str
    what: str
    start: str
    ram: str
    gpu: str
    method: Mapping[str, str]
    verified_ram: str
    predicted_ram: str
    off: str
    """The prediction's error; empty where there is none."""
    cosine: str
    recall: str
    argv: Sequence[str]
    runs: Sequence[str]


def mode_row(mode: Mode) -> ModeRow:
    """A mode, ready for a table of modes."""
    quality = mode.quality or Quality()
    measured_ram, foreseen = mode.verified_ram_bytes, mode.predicted.get("ram_bytes")
    error = foreseen / measured_ram - 1 if foreseen is not None and measured_ram else None
    described = (mode.model, mode.device, mode.dtype, mode.release, mode.version)
    return ModeRow(
        name=formatting.plain(mode.name),
        measured=measured(mode),
        why=why_not(mode),
        what=" · ".join(formatting.plain(part) for part in described if part),
        start=_start(mode),
        ram=formatting.size(mode.ram_peak_bytes),
        gpu=formatting.size(mode.gpu_peak_bytes),
        method=mode.memory_method,
        verified_ram=formatting.size(measured_ram),
        predicted_ram=formatting.size(foreseen),
        off="" if error is None else units.off(error),
        cosine=ABSENT if quality.cosine_min is None else f"{quality.cosine_min:.5f}",
        recall=ABSENT if quality.recall_at_10 is None else f"{quality.recall_at_10:.3f}",
        argv=mode.argv,
        runs=mode.runs,
    )


def _start(mode: Mode) -> str:
    found = mode.verified_s or mode.ready_s
    return formatting.seconds(found.median) if found else ABSENT


@dataclass(frozen=True)
class LevelRow:
    """A mode at one level, as it is shown."""

    name: str
    why: str
    """Why it has no figures; empty where it has."""
    cells: Sequence[tuple[str, str, bool]] = ()
    """Of each figure: the median, least and most, and whether it is the best."""
    ram: str = ABSENT
    gpu: str = ABSENT
    flags: Sequence[str] = ()


@dataclass(frozen=True)
class LevelGroup:
    """A level with a row for every mode that has figures."""

    title: str
    rows: Sequence[LevelRow]


def level_group(doc: Comparison, level: Level) -> LevelGroup:
    """A level with a row for every mode that has figures, the best of each column marked.

    Why a mode has none stands in the table of the modes, once.
    """
    best = best_of(doc, level)
    rows = [_level_row(mode, mode.cell(level), best) for mode in filter(measured, doc.modes)]
    return LevelGroup(formatting.level(level), rows)


def _level_row(mode: Mode, cell: Cell | None, best: Mapping[str, str]) -> LevelRow:
    if cell is None:
        return LevelRow(formatting.plain(mode.name), NOT_MEASURED)
    return LevelRow(
        name=formatting.plain(mode.name),
        why="",
        cells=[
            (*formatting.spread(spread_of(cell, name)), best.get(name) == mode.name)
            for name, _, _ in FIGURES
        ],
        ram=formatting.size(cell.ram_peak_bytes),
        gpu=formatting.size(cell.gpu_peak_bytes),
        flags=flags(cell),
    )


def best_of(doc: Comparison, level: Level) -> dict[str, str]:
    """Name of the best mode, by figure; none where only one mode has it."""
    best: dict[str, str] = {}
    for name, _, unit in FIGURES:
        found = [
            (spread.median, mode.name)
            for mode in doc.modes
            if (cell := mode.cell(level)) and not cell.errors
            if (spread := spread_of(cell, name)) is not None
        ]
        if len(found) > 1:
            best[name] = (min(found) if unit == "ms" else max(found))[1]
    return best


def _modes_table(doc: Comparison) -> list[str]:
    headings = [
        *("mode", "what", "RAM peak", "predicted", "GPU peak", "start"),
        *("cosine, least", "recall@10"),
    ]
    rows: list[tuple[object, ...]] = []
    for row in map(mode_row, doc.modes):
        if row.measured:
            foreseen = f"{row.predicted_ram} ({row.off})" if row.off else ABSENT
            what = f"{row.what} ({row.why})" if row.why else row.what
            figures = (row.ram, foreseen, row.gpu, row.start, row.cosine, row.recall)
            rows.append((row.name, what, *figures))
        else:
            rows.append((row.name, row.why, *[ABSENT] * 6))
    return formatting.markdown_table(headings, rows, left=2)


def _level_table(doc: Comparison, level: Level) -> list[str]:
    headings = ["mode", *(f"{name} ({unit})" if unit else name for _, name, unit in FIGURES)]
    rows = []
    for mode in filter(measured, doc.modes):
        cell = mode.cell(level)
        if cell is None:
            rows.append([mode.name, *[ABSENT] * (len(FIGURES) + 2), NOT_MEASURED])
            continue
        texts = [
            f"{median} ({around})" if around else median
            for median, around in (
                formatting.spread(spread_of(cell, name)) for name, _, _ in FIGURES
            )
        ]
        memory = [formatting.size(size) for size in (cell.ram_peak_bytes, cell.gpu_peak_bytes)]
        rows.append([mode.name, *texts, *memory, ", ".join(flags(cell))])
    return formatting.markdown_table([*headings, "RAM", "GPU", "notes"], rows)


def _csv_rows(doc: Comparison) -> Iterator[list[object]]:
    for mode in doc.modes:
        for level in doc.levels:
            yield _csv_row(mode, level, mode.cell(level))


def _csv_row(mode: Mode, level: Level, cell: Cell | None) -> list[object]:
    quality = mode.quality or Quality()
    spreads = [spread_of(cell, name) if cell else None for name, _, _ in FIGURES]
    starts = (mode.ready_s, mode.verified_s)
    return [
        *(mode.name, mode.kind, mode.outcome, mode.reason, mode.profile, mode.model),
        *(mode.device, mode.dtype, mode.version),
        *(level.loop, level.clients, level.batch, level.tokens, level.shortest, level.rate),
        *itertools.chain.from_iterable(map(_parts, spreads)),
        max(spread.count if spread else 0 for spread in spreads) if cell else None,
        *((cell.ram_peak_bytes, cell.gpu_peak_bytes) if cell else (None, None)),
        *((cell.errors, cell.saturated) if cell else (None, None)),
        *(quality.cosine_min, quality.recall_at_10),
        *(start.median if start else None for start in starts),
        *(mode.predicted.get(key) for key in ("ram_bytes", "gpu_bytes")),
        *(mode.ram_peak_bytes, mode.gpu_peak_bytes),
        " ".join(mode.runs),
    ]


def _parts(spread: Spread | None) -> tuple[float | None, ...]:
    return (None, None, None) if spread is None else (spread.median, spread.least, spread.most)
