"""The engine's context length: what the checkpoint has, and what its KV cache can hold. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from launcher.argv import FlagValue, options, whole
from launcher.errors import QlaunchError
from launcher.model.checkpoint import Checkpoint
from launcher.model.inspect import OFFSET_POSITIONS
from launcher.plan.decision import Decision, Flags

FLAG: Final = "context-length"
POOL: Final = "max-total-tokens"
PAGE: Final = "page-size"
LONGER: Final = "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"


def most(checkpoint: Checkpoint) -> int:
    """The largest context length that the engine may be given.

    It refuses a text that fills its context, so an encoder is given one more than the positions
    that texts can use: 513 for the 512 of BERT, and for RoBERTa's 514, of which the first two hold
    no text (the engine does not know that: it would take 513 tokens, and die).
    """
    return checkpoint.context_length + checkpoint.encoder


def environment(asked: Mapping[str, FlagValue], checkpoint: Checkpoint) -> dict[str, str]:
    """The variable without which the engine refuses a context that exceeds config.json's.

    Args:
        asked: the plan's flags, the user's own among them.
        checkpoint: what is served.
    """
    context = asked.get(FLAG)
    beyond = isinstance(context, int) and checkpoint.context_length < context <= most(checkpoint)
    return {LONGER: "1"} if beyond and checkpoint.model_type not in OFFSET_POSITIONS else {}


def decide(
    wanted: Mapping[str, FlagValue], extra: tuple[str, ...], checkpoint: Checkpoint
) -> Decision[Flags]:
    """What `--context-length` must be beside the flags `wanted`; empty where they are right.

    Args:
        wanted: the plan's flags so far.
        extra: the user's own options, which win: the reasons name a context there that is too long.
        checkpoint: what is served.
    """
    asked, limit = wanted.get(FLAG), most(checkpoint)
    decision = _within(asked, limit, checkpoint.context_length)
    given = as_given({**wanted, **decision.value}, extra)
    held = _below(given, checkpoint)
    if FLAG in options(extra):
        waits = f"a text of {held} tokens or more would wait forever: --{POOL} {given.get(POOL)}"
        return Decision({}, () if held is None else (waits,))
    if held is None:
        return decision
    # The scheduler lets a longer text wait for ever, and everything behind it too.
    why = f"context {held}: the KV cache (--{POOL} {given[POOL]}) cannot hold a longer text"
    return Decision({FLAG: held}, (why,))


def _within(asked: FlagValue | None, limit: int, has: int) -> Decision[Flags]:
    """The context as far as the checkpoint's positions decide it."""
    if isinstance(asked, int) and asked > limit:
        # A longer context than the checkpoint's is refused by the engine.
        why = f"context {has}: the checkpoint has no more (the profile says {asked})"
        return Decision({FLAG: limit}, (why,))
    if limit > has and asked in (None, limit):
        why = f"context {limit}: {has} positions can be used, all of them by texts"
        return Decision({FLAG: limit}, (why,))
    return Decision({})


def _below(asked: Mapping[str, FlagValue], checkpoint: Checkpoint) -> int | None:
    """The context that a KV cache holds one text of, where it is shorter; None where it is not.

    The scheduler starts a text only where the cache has more room than it and one page take
    (`total_tokens < remaining_total`, schedule_policy.py): of 300 tokens it runs 298. The context
    is one more, which nobody may fill.
    """
    pool, context, page = asked.get(POOL), asked.get(FLAG), asked.get(PAGE, 1)
    if not isinstance(context, int):
        context = checkpoint.context_length
    if not isinstance(pool, int) or not isinstance(page, int) or page < 1:
        return None
    held = pool - pool % page - page
    return held if 0 < held < context else None


def check(asked: Mapping[str, FlagValue], checkpoint: Checkpoint) -> None:
    """Refuse a context with which texts reach positions that the checkpoint does not have.

    Raises:
        QlaunchError: `context_too_long` (exit 2).
    """
    context, limit = asked.get(FLAG), most(checkpoint)
    if limit == checkpoint.context_length or not isinstance(context, int) or context <= limit:
        return
    raise QlaunchError(
        f"--{FLAG} {context}: {checkpoint.path} has positions for {checkpoint.context_length}"
        " tokens, and longer texts would end the engine",
        code="context_too_long",
        fix=f"give {limit} at most, or leave it out",
    )


def as_given(flags: Mapping[str, FlagValue], extra: tuple[str, ...]) -> Flags:
    """Flags with the whole numbers of the user's own options in them, for the prediction."""
    numbers = {
        name: number
        for name, values in options(extra).items()
        if values and (number := whole(values[0])) is not None
    }
    return {**flags, **numbers}
