"""The table of the article that the project started from, beside what was measured here. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from launcher.bench import verdict
from launcher.cli.result import table
from launcher.documents.comparison import Cell, Comparison, Level, Mode
from launcher.units import size

SOURCE: Final = (
    "an article's figures for Qwen3-Embedding-0.6B on an NVIDIA T4: SGLang 0.3.0, CUDA 12.1,"
    " 128 tokens, mean of 100 requests; its figures, not ours"
)
NEEDS_GPU: Final = "needs a GPU: not measured"
NOT_MEASURED: Final = "not measured"
LEVELS: Final = (
    Level(clients=1, batch=1, tokens=128),
    Level(clients=1, batch=4, tokens=128),
)


@dataclass(frozen=True)
class _Seed:
    """One row of the article."""

    mode: str
    batch_1_ms: float
    batch_4_ms: float | None
    memory: str


SEED: Final = (
    _Seed("GPU, fp16", 48, 62, "1.5 GB GPU"),
    _Seed("layer-wise CPU offload", 210, 245, "1.8 GB RAM, 0.6 GB GPU"),
    _Seed("CPU only", 1120, None, "2.1 GB RAM"),
)


def rows(found: Comparison) -> list[dict[str, Any]]:
    """The article's rows, each with ours of the same kind; a figure that is not there is None."""
    out: list[dict[str, Any]] = []
    for seed in SEED:
        ours = [mode for mode in found.modes if _kind(mode) == seed.mode and mode.cells]
        out.append(
            {
                "mode": seed.mode,
                "article": {
                    "batch_1_ms": seed.batch_1_ms,
                    "batch_4_ms": seed.batch_4_ms,
                    "memory": seed.memory,
                },
                "ours": [_ours(mode) for mode in ours],
                "reason": None
                if ours
                else (NEEDS_GPU if "GPU" in seed.mode + seed.memory else NOT_MEASURED),
            }
        )
    return out


def lines(found: Comparison) -> list[str]:
    """The table for people."""
    body: list[tuple[object, ...]] = []
    for row in rows(found):
        article = row["article"]
        body.append(
            (
                row["mode"],
                "article (T4)",
                _ms(article["batch_1_ms"]),
                _ms(article["batch_4_ms"]),
                article["memory"],
            )
        )
        body += [
            ("", each["name"], _ms(each["batch_1_ms"]), _ms(each["batch_4_ms"]), each["memory"])
            for each in row["ours"]
        ]
        if not row["ours"]:
            body.append(("", f"this machine: {row['reason']}", None, None, None))
    heading = ("MODE", "WHERE", "BATCH 1", "BATCH 4", "MEMORY")
    return [f"The seed's table: {SOURCE}.", *table(heading, body)]


def _kind(mode: Mode) -> str:
    """The article's word for a mode."""
    if mode.device == "cpu":
        return "CPU only"
    return "layer-wise CPU offload" if "--cpu-offload-gb" in mode.argv else "GPU, fp16"


def _ours(mode: Mode) -> dict[str, Any]:
    one, four = (_mean(verdict.cell(mode, level)) for level in LEVELS)
    memory = f"{size(mode.ram_peak_bytes)} RAM"
    if mode.gpu_peak_bytes is not None:
        memory += f", {size(mode.gpu_peak_bytes)} GPU"
    return {
        "name": f"{mode.name} ({mode.model}, {mode.dtype})",
        "model": mode.model,
        "batch_1_ms": one,
        "batch_4_ms": four,
        "ram_peak_bytes": mode.ram_peak_bytes,
        "gpu_peak_bytes": mode.gpu_peak_bytes,
        "memory": memory,
    }


def _mean(found: Cell | None) -> float | None:
    return found.mean_ms.median if found is not None and found.mean_ms is not None else None


def _ms(value: float | None) -> str | None:
    return None if value is None else f"{value:.0f} ms"
