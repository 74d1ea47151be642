"""How a comparison reads to a person. Pure."""

from __future__ import annotations

from launcher.bench import verdict
from launcher.cli.result import table
from launcher.documents.comparison import Cell, Comparison, Mode, Spread
from launcher.units import length, size

HEADINGS = (
    "MODE",
    "CLIENTS × BATCH",
    "P50 MS",
    "P95 MS",
    "TEXTS/S",
    "GAIN",
    "RAM PEAK",
    "COSINE",
    "RECALL@10",
    "PREDICTED/MEASURED",
)


def lines(found: Comparison) -> list[str]:
    """The table of all modes, and the verdict."""
    plain = verdict.baseline(found)
    rows: list[tuple[object, ...]] = []
    for mode in found.modes:
        rows += _rows(found, mode, plain)
    return [*table(HEADINGS, rows), "", *found.verdict, *found.notes]


def _rows(found: Comparison, mode: Mode, plain: Mode | None) -> list[tuple[object, ...]]:
    if not mode.cells:
        return [(mode.name, _WITHOUT[mode.outcome], *[""] * (len(HEADINGS) - 2))]
    rows: list[tuple[object, ...]] = []
    for place, cell in enumerate(mode.cells):
        tokens = length(cell.level.tokens, cell.level.shortest)
        tokens = "" if tokens == "128" else f" × {tokens}"
        gain = None if plain in (None, mode) else _gain(found, mode, plain, cell)
        rows.append(
            (
                mode.name if place == 0 else "",
                f"{cell.level.clients} × {cell.level.batch}{tokens}",
                _figure(cell.p50_ms),
                _figure(cell.p95_ms),
                _figure(cell.embeddings_per_s),
                gain,
                size(cell.ram_peak_bytes) if cell.ram_peak_bytes else None,
                *(_quality(mode) if place == 0 else ("", "")),
                _memory(mode) if place == 0 else "",
            )
        )
    return rows


_WITHOUT = {
    "cannot_run": "cannot run here",
    "failed": "failed",
    "not_reached": "not reached",
    "partial": "nothing measured",
    "measured": "nothing measured",
}


def _gain(found: Comparison, mode: Mode, plain: Mode | None, cell: Cell) -> str | None:
    assert plain is not None
    times = verdict.ratio(found, mode, plain, cell.level)
    return None if times is None else f"{times:.1f} ×"


def _figure(seen: Spread | None) -> str | None:
    if seen is None:
        return None
    return f"{seen.median:.1f}{' ~' if seen.noisy else ''}"


def _quality(mode: Mode) -> tuple[str | None, str | None]:
    found = mode.quality
    if found is None or found.cosine_min is None:
        return None, None if found is None else _recall(found.recall_at_10)
    return f"{found.cosine_min:.4f}", _recall(found.recall_at_10)


def _recall(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def _memory(mode: Mode) -> str | None:
    predicted, measured = mode.predicted.get("ram_bytes"), mode.verified_ram_bytes
    if not predicted or not measured:
        return None
    return f"{size(predicted)} / {size(measured)}"
