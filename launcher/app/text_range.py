"""Lengths and numbers of texts that are asked for, against those that a service can be given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launcher.documents.comparison import Level
from launcher.documents.plan import Plan
from launcher.errors import QlaunchError
from launcher.model import special_tokens
from launcher.units import counted


def require(levels: Sequence[Level], plan: Plan, *, least: int | None = None) -> None:
    """Refuse levels of which none can be measured: their texts are too short, too long or too many.

    Args:
        levels: what is to be measured.
        plan: of the service.
        least: tokens of the shortest text; None: as the checkpoint's tokenizer says.

    Raises:
        QlaunchError: `usage` (exit 2), with the range.
    """
    inputs = min(level.batch for level in levels)
    if plan.guard is not None and inputs > plan.guard.inputs:
        raise QlaunchError(
            f"--batch {inputs}: a call to {plan.model_name} has"
            f" {counted(plan.guard.inputs, 'text')} at most",
            code="usage",
            fix=f"give --batch a number from 1 to {plan.guard.inputs}",
        )
    if least is None:
        least = special_tokens.count_of(Path(plan.model_path)) + 1
    most = plan.longest_text
    if any(least <= (level.shortest or level.tokens) and level.tokens <= most for level in levels):
        return
    asked = ",".join(dict.fromkeys(map(_words, levels)))
    raise QlaunchError(
        f"--tokens {asked}: a text of {plan.model_name} has {least} to {most} tokens,"
        " special tokens counted",
        code="usage",
        fix=f"give --tokens a number from {least} to {most}",
    )


def _words(level: Level) -> str:
    return str(level.tokens) if level.shortest is None else f"{level.shortest}-{level.tokens}"
