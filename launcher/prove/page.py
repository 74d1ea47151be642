"""A proof as one HTML page."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

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


@dataclass(frozen=True)
class ClaimRow:
    """Figures of one profile, as words."""

    profile: str
    release: str
    ok: bool
    cosine: str
    recall: str
    ram: str
    ram_off: str
    gpu: str
    gpu_off: str
    gpu_method: str
    ready: str


def _claim(claim: Claim) -> ClaimRow:
    return ClaimRow(
        profile=claim.profile,
        release=claim.release or formatting.ABSENT,
        ok=claim.ok,
        cosine=_digits(claim.worst_cosine),
        recall=_digits(claim.recall_difference),
        ram=formatting.size(claim.ram_measured_bytes),
        ram_off=_off(claim.ram_predicted_bytes, claim.ram_measured_bytes),
        gpu=formatting.size(claim.gpu_measured_bytes),
        gpu_off=_off(claim.gpu_predicted_bytes, claim.gpu_measured_bytes),
        gpu_method=claim.gpu_method or "",
        ready=formatting.seconds(claim.ready_s),
    )


def _digits(value: float | None) -> str:
    """A cosine or a share: three significant digits would make 0.9999 a 1."""
    return formatting.ABSENT if value is None else f"{value:.4f}"


def _off(predicted: int | None, measured: int | None) -> str:
    return off(predicted / measured - 1) if predicted and measured else formatting.ABSENT


class _Load(msgspec.Struct):
    """As much of a row of `bench` and of `compare` as the page shows."""

    mode: str | None = None
    batch: int | None = None
    tokens: int | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    embeddings_per_s: float | None = None
    ram_peak_bytes: int | None = None
    gpu_peak_bytes: int | None = None


class _Mode(msgspec.Struct):
    name: str
    rows: tuple[_Load, ...] = ()


class _Measured(msgspec.Struct):
    """`data` of a step that measured."""

    modes: tuple[_Mode, ...] = ()
    rows: tuple[_Load, ...] = ()


@dataclass(frozen=True)
class LoadRow:
    """A level of load that a step measured, as words."""

    chapter: str
    mode: str
    batch: int | None
    tokens: int | None
    p50: str
    p95: str
    rate: str
    ram: str
    gpu: str


def _rows(chapter: str, step: StepRecord) -> list[LoadRow]:
    """Levels of load that a step measured; a comparison has them by mode."""
    try:
        found = msgspec.convert(step.data, _Measured)
    except msgspec.ValidationError:
        return []  # the step was no measurement
    rows = [_row(chapter, mode.name, row) for mode in found.modes for row in mode.rows]
    return rows + [_row(chapter, row.mode or "", row) for row in found.rows]


def _row(chapter: str, mode: str, row: _Load) -> LoadRow:
    return LoadRow(
        chapter=chapter,
        mode=mode,
        batch=row.batch,
        tokens=row.tokens,
        p50=formatting.figure(row.p50_ms),
        p95=formatting.figure(row.p95_ms),
        rate=formatting.figure(row.embeddings_per_s),
        ram=formatting.size(row.ram_peak_bytes),
        gpu=formatting.size(row.gpu_peak_bytes),
    )
