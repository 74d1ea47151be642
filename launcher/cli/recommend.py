"""`qlaunch recommend`: what to run on a machine, and why."""

from __future__ import annotations

import shlex

import click
import msgspec

from launcher.app import candidates, evidence
from launcher.app.prepare import asked_machine
from launcher.cli import screen
from launcher.cli.base import all_option, wants_reasons
from launcher.cli.base import command as declare
from launcher.cli.options import machine_options
from launcher.cli.result import Result, table
from launcher.documents.evidence import Evidence
from launcher.documents.service_state import ExecutedEngine
from launcher.errors import QlaunchError
from launcher.hardware.capability import dots
from launcher.hardware.inventory import Gpu, Hardware
from launcher.paths import dirs
from launcher.plan import engine_and_card
from launcher.plan.recommend import Recommendation
from launcher.plan.suitability import Bucket, Verdict
from launcher.units import size
from launcher.yaml_messages import shown


@declare("recommend")
@machine_options
@all_option()
@click.argument("words", nargs=-1, metavar="")
def command(
    gpu: str | None,
    vram: str | None,
    driver: str | None,
    everything: bool,
    words: tuple[str, ...],
) -> Result:
    """Say which profile suits a machine, with its reasons (-v for all) and the evidence.

    \b
        qlaunch recommend                  this machine
        qlaunch recommend --gpu T4         a machine with a T4
        qlaunch recommend --vram 4GB       a machine with some card of 4 GB
    """
    if words:
        raise QlaunchError(
            f"`recommend` is about the machine, and takes neither profile nor model:"
            f" {', '.join(map(shown, words))}",
            code="usage",
            fix=f"the best profile for a model, and its plan: qlaunch plan {shlex.quote(words[0])}",
        )
    where = dirs()
    hardware = asked_machine(gpu, vram, driver)
    if gpu or vram:
        engine_and_card.require_kernels(hardware)
    given = candidates.advise(hardware, where)
    found = candidates.recommendation(given, where)
    known = evidence.with_comparisons(
        found.evidence, given.judged[0].verdict.plan, None if hardware.assumed else where
    )
    data = document(found, known, given, hardware)
    lines = _lines(found, known, reasons=wants_reasons() or everything)
    return Result(data=data, lines=screen.shorten(lines, everything=everything))


class JudgedProfile(msgspec.Struct, frozen=True, kw_only=True):
    """One profile, and whether it runs."""

    name: str
    bucket: Bucket
    reason: str | None
    change: str | None
    saves_bytes: int | None
    release: str | None


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU of the machine that was asked about."""

    name: str
    compute_capability: str
    memory_total_bytes: int
    memory_free_bytes: int | None


def document(
    found: Recommendation, known: Evidence, given: candidates.Advice, hardware: Hardware
) -> dict[str, object]:
    """The recommendation as the command line's contract has it."""
    return {
        "profile": found.profile,
        "bucket": found.bucket,
        "kind": found.kind,
        "change": found.change,
        "needs": found.needs,
        "engine": ExecutedEngine(
            release=found.release, version=found.version, argv=found.argv, env=found.env
        ),
        "dtype": found.dtype,
        "memory": {"predicted": {"ram_bytes": found.ram_bytes, "gpu_bytes": found.gpu_bytes}},
        "reasons": found.reasons,
        "evidence": known,
        "alternatives": found.alternatives,
        "hardware": {
            "gpus": [_card(gpu) for gpu in hardware.gpus],
            "gpu_status": hardware.gpu_status,
            "driver_version": hardware.driver_version,
            "assumed": hardware.assumed,
        },
        "profiles": [_judged(judged.verdict) for judged in given.judged],
    }


def _card(gpu: Gpu) -> Card:
    return Card(
        name=gpu.name,
        compute_capability=dots(gpu.compute_capability),
        memory_total_bytes=gpu.memory_total_bytes,
        memory_free_bytes=gpu.memory_free_bytes,
    )


def _judged(verdict: Verdict) -> JudgedProfile:
    return JudgedProfile(
        name=verdict.profile,
        bucket=verdict.bucket,
        reason=verdict.reason,
        change=verdict.change,
        saves_bytes=verdict.saves_bytes,
        release=verdict.release,
    )


_REASONS = 3
"""Reasons that are shown without -v; the first say most."""


def _lines(found: Recommendation, known: Evidence, *, reasons: bool) -> list[str]:
    memory = [f"{size(found.ram_bytes)} RAM"]
    if found.gpu_bytes is not None:
        memory.append(f"{size(found.gpu_bytes)} of GPU memory")
    change = f" -- {found.change}" if found.change else ""
    rows = [
        (other.profile, other.kind, other.change or other.needs or "as it stands")
        for other in found.alternatives
    ]
    told = found.reasons if reasons else found.reasons[:_REASONS]
    left = len(found.reasons) - len(told)
    return [
        f"profile   {found.profile} ({found.kind})",
        f"engine    {found.release}, SGLang {found.version}, dtype {found.dtype}",
        f"memory    predicted {', '.join(memory)}",
        f"start     qlaunch up {found.profile}{change}",
        "because",
        *(line for reason in told for line in screen.folded(reason, "  ")),
        *([f"  … {left} more: -v"] if left else []),
        *evidence.lines(known),
        *(["", *table(("ALTERNATIVE", "KIND", "WITH"), rows)] if rows else []),
    ]
