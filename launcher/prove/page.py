"""A proof as one HTML page."""

from __future__ import annotations

from typing import Any

from launcher.documents.proof import Claim, Proof, StepRecord
from launcher.report import formatting
from launcher.report.page import render
from launcher.units import off


def html(proof: Proof) -> str:
    """The page; it loads nothing."""
    return render(
        "proof.html.j2",
        title=f"qlaunch proof {proof.id}",
        proof=proof,
        verdict=verdict(proof),
        whole=all(c.outcome == "ok" for c in proof.chapters),
        claims=[_claim(each) for each in proof.claims],
        rows=[row for c in proof.chapters for s in c.steps for row in _rows(c.name, s)],
    )


def verdict(proof: Proof) -> str:
    """The proof in one sentence."""
    bad = [c for c in proof.chapters if c.outcome != "ok"]
    good = len(proof.chapters) - len(bad)
    words = f"{good} of {len(proof.chapters)} chapters succeeded"
    counts = {o: sum(c.outcome == o for c in bad) for o in dict.fromkeys(c.outcome for c in bad)}
    said = ", ".join(f"{count} {outcome.replace('_', ' ')}" for outcome, count in counts.items())
    return f"{words}{f' ({said})' if said else ''}."


def _claim(claim: Claim) -> dict[str, Any]:
    """Figures of one profile, as words."""
    return {
        "profile": claim.profile,
        "release": claim.release or formatting.ABSENT,
        "ok": claim.ok,
        "cosine": _digits(claim.worst_cosine),
        "recall": _digits(claim.recall_difference),
        "ram": formatting.size(claim.ram_measured_bytes),
        "ram_off": _off(claim.ram_predicted_bytes, claim.ram_measured_bytes),
        "gpu": formatting.size(claim.gpu_measured_bytes),
        "gpu_off": _off(claim.gpu_predicted_bytes, claim.gpu_measured_bytes),
        "gpu_method": claim.gpu_method or "",
        "ready": formatting.seconds(claim.ready_s),
    }


def _digits(value: float | None) -> str:
    """A cosine or a share: three significant digits would make 0.9999 a 1."""
    return formatting.ABSENT if value is None else f"{value:.4f}"


def _off(predicted: int | None, measured: int | None) -> str:
    return off(predicted / measured - 1) if predicted and measured else formatting.ABSENT


def _rows(chapter: str, step: StepRecord) -> list[dict[str, Any]]:
    """Levels of load that a step measured; a comparison has them by mode."""
    modes = [mode for mode in _list(step.data, "modes") if isinstance(mode, dict)]
    found = [(str(mode.get("name", "")), row) for mode in modes for row in _list(mode, "rows")]
    found += [("", row) for row in _list(step.data, "rows")]
    return [_row(chapter, mode, row) for mode, row in found if isinstance(row, dict)]


def _list(data: dict[str, Any], key: str) -> list[Any]:
    value = data.get(key)
    return value if isinstance(value, list) else []


def _row(chapter: str, mode: str, row: dict[str, Any]) -> dict[str, Any]:
    inner = row.get("level")
    level = inner if isinstance(inner, dict) else row
    return {
        "chapter": chapter,
        "mode": mode or row.get("mode") or "",
        "batch": level.get("batch"),
        "tokens": level.get("tokens"),
        "p50": formatting.figure(row.get("p50_ms")),
        "p95": formatting.figure(row.get("p95_ms")),
        "rate": formatting.figure(row.get("embeddings_per_s")),
        "ram": formatting.size(row.get("ram_peak_bytes")),
        "gpu": formatting.size(row.get("gpu_peak_bytes")),
    }
