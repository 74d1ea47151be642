"""`qlaunch model quantize`: a quantised copy of a model, measured before it is kept."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from launcher.app import interrupts, quantizing
from launcher.cli.base import command as declare
from launcher.cli.finite import FiniteRange
from launcher.cli.progress import Progress
from launcher.cli.result import Result
from launcher.paths import NAME
from launcher.quantize.formats import FORMATS, To
from launcher.quantize.make import Record
from launcher.units import size


@declare("model quantize")
@click.argument("model")
@click.option(
    "--to", "to", type=click.Choice(list(FORMATS)), required=True,
    help="int8 and int4 for cards of 2 to 4 GB; fp8 for Ada and newer.",
)  # fmt: skip
@click.option("--name", metavar="NAME", help="Name of its card (default: MODEL-TO).")
@click.option(
    "--min-cosine", type=FiniteRange(-1, 1),
    help="Keep it from this cosine with float32 on (default: by --to).",
)  # fmt: skip
@click.option(
    "--max-recall-loss", type=FiniteRange(0, 1),
    help="Keep it while recall@10 falls by no more (default: by --to).",
)  # fmt: skip
@click.option("--again", is_flag=True, help="Make it again where it is here already.")
@click.option("--offline", is_flag=True, help="Use only what is on this machine.")
@click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")
def command(
    model: str, to: To, name: str | None, again: bool, offline: bool, quiet: bool, **limits: Any
) -> Result:
    """Make a quantised copy of MODEL (a card's name or a source); needs no GPU.

    llm-compressor does it, in an environment of its own that is installed once. The vectors of the
    copy, computed on the CPU from the bytes that were written, are held against float32 (cosine,
    recall@10): exit 7 where they are too far off, and nothing is kept. What is kept has a model
    card: `qlaunch up PROFILE --model NAME`.
    """
    if name is not None and not NAME.fullmatch(name):
        raise click.BadParameter(
            "is not a card's name: lower case, digits, `.`, `_`, `-`", param_hint="'--name'"
        )
    progress = Progress(quiet=quiet)
    wanted = quantizing.limits(FORMATS[to], limits["min_cosine"], limits["max_recall_loss"])
    try:
        with interrupts.ends_by_interrupt():
            done = quantizing.quantize(
                model, wanted, name=name, again=again, offline=offline, progress=progress.line
            )
    finally:
        progress.done()
    return _result(done)


def _result(done: quantizing.Quantized) -> Result:
    data = {
        "name": done.name,
        "path": str(done.path),
        "card": str(done.card),
        "new": done.made,
        **msgspec.to_builtins(done.record),
        "profile": done.wanted.profile,
        "engines": dict(done.wanted.engines),
    }
    return Result(data=data, lines=_lines(done, done.record))


def _lines(done: quantizing.Quantized, record: Record) -> list[str]:
    found = record.measured
    verb = "made" if done.made else "here already, as it was made"
    flag = f" with --quantization {done.wanted.flag}" if done.wanted.flag else ""
    before = f"before {size(record.source_bytes)}"
    matrices = f"{record.matrices} matrices, {size(record.weight_bytes)} ({before})"
    worst = f"{found.cosine_worst:.4f} worst ({found.worst_text}), {found.cosine_mean:.4f} mean"
    engines = ", ".join(done.wanted.engines)
    return [
        f"{done.name}: {verb}, {matrices}, in {done.path}",
        f"cosine with float32, {found.texts} texts: {worst}",
        f"recall@10: {found.recall_at_10:.4f}, {found.recall_at_10_float32:.4f} in float32",
        f"engines: {engines}{flag} (by their sources; not run on a card)",
        f"serve it: qlaunch up {done.wanted.profile} --model {done.name}",
    ]
