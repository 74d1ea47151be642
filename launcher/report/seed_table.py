"""The table of the article that the project started from, beside what was measured here. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from launcher.documents.comparison import Cell, Comparison, Level, Mode
from launcher.report import formatting
from launcher.report.formatting import ABSENT, NOT_MEASURED
from launcher.units import size

SOURCE: Final = (
    "an article's figures for Qwen3-Embedding-0.6B on an NVIDIA T4: SGLang 0.3.0, CUDA 12.1,"
    " 128 tokens, mean of 100 requests; its figures, not ours"
)
CAPTION: Final = f"{SOURCE[0].upper()}{SOURCE[1:]}."
TITLE: Final = "The table of the article that this project started from"
HEADINGS: Final = ("mode", "where", "batch 1, ms", "batch 4, ms", "memory")
NEEDS_GPU: Final = "needs a GPU: not measured"
LEVELS: Final = (
    Level(clients=1, batch=1, tokens=128),
    Level(clients=1, batch=4, tokens=128),
)


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the article."""

    batch_1_ms: float
    batch_4_ms: float | None
    memory: str


class Ours(msgspec.Struct, frozen=True, kw_only=True):
    """One mode of ours; a figure that is not there is None."""

    name: str
    model: str | None
    batch_1_ms: float | None
    batch_4_ms: float | None
    ram_peak_bytes: int | None
    gpu_peak_bytes: int | None
    memory: str


class SeedRow(msgspec.Struct, frozen=True, kw_only=True):
    """A mode of the article, and ours of the same kind."""

    mode: str
    article: Figures
    ours: tuple[Ours, ...]
    reason: str | None
    """Why there is none of ours."""


SEED: Final = {
    "GPU, fp16": Figures(batch_1_ms=48, batch_4_ms=62, memory="1.5 GB GPU"),
    "layer-wise CPU offload": Figures(
        batch_1_ms=210, batch_4_ms=245, memory="1.8 GB RAM, 0.6 GB GPU"
    ),
    "CPU only": Figures(batch_1_ms=1120, batch_4_ms=None, memory="2.1 GB RAM"),
}


def rows(found: Comparison) -> list[SeedRow]:
    """The article's rows, each with ours of the same kind."""
    return [_row(mode, article, found) for mode, article in SEED.items()]


def _row(name: str, article: Figures, found: Comparison) -> SeedRow:
    ours = tuple(_ours(mode) for mode in found.modes if _kind(mode) == name and mode.cells)
    why = NEEDS_GPU if "GPU" in name + article.memory else NOT_MEASURED
    return SeedRow(mode=name, article=article, ours=ours, reason=None if ours else why)


def texts(found: Comparison) -> list[tuple[str, ...]]:
    """The table as it is shown, by HEADINGS: a row of the article, and ours of its kind below."""
    shown: list[tuple[str, ...]] = []
    for row in rows(found):
        shown.append((row.mode, "the article (T4)", *_figures(row.article)))
        shown += [("", each.name, *_figures(each)) for each in row.ours]
        if not row.ours:
            shown.append(("", f"this machine: {row.reason}", *[ABSENT] * 3))
    return shown


def _figures(row: Figures | Ours) -> tuple[str, str, str]:
    return formatting.figure(row.batch_1_ms), formatting.figure(row.batch_4_ms), row.memory


def _kind(mode: Mode) -> str:
    """The article's word for a mode."""
    if mode.device == "cpu":
        return "CPU only"
    return "layer-wise CPU offload" if "--cpu-offload-gb" in mode.argv else "GPU, fp16"


def _ours(mode: Mode) -> Ours:
    one, four = (_mean(mode.cell(level)) for level in LEVELS)
    memory = f"{size(mode.ram_peak_bytes)} RAM"
    if mode.gpu_peak_bytes is not None:
        memory += f", {size(mode.gpu_peak_bytes)} GPU"
    return Ours(
        name=f"{mode.name} ({mode.model}, {mode.dtype})",
        model=mode.model,
        batch_1_ms=one,
        batch_4_ms=four,
        ram_peak_bytes=mode.ram_peak_bytes,
        gpu_peak_bytes=mode.gpu_peak_bytes,
        memory=memory,
    )


def _mean(found: Cell | None) -> float | None:
    return found.mean_ms.median if found is not None and found.mean_ms is not None else None
