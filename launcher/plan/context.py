"""The engine's context length: what the checkpoint has, and what its KV cache can hold. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from launcher.errors import ExitCode, QlaunchError
from launcher.model.inspect import OFFSET_POSITIONS
from launcher.model.types import Checkpoint
from launcher.profile.types import FlagValue

FLAG: Final = "context-length"
POOL: Final = "max-total-tokens"


def most(checkpoint: Checkpoint) -> int:
    """The largest context length that the engine may be given.

    RoBERTa's first positions hold no text, which the engine does not know: of 514 it would take
    513 tokens, and die. It refuses a text that fills its context, so one more than the positions
    that can be used lets all of them be used.
    """
    return checkpoint.context_length + (checkpoint.model_type in OFFSET_POSITIONS)


def flags(
    wanted: Mapping[str, FlagValue], extra: tuple[str, ...], checkpoint: Checkpoint
) -> dict[str, FlagValue]:
    """What `--context-length` must be beside the flags `wanted`; empty where they are right.

    Args:
        wanted: the plan's flags.
        extra: the user's own options.
        checkpoint: what is served.
    """
    given, limit = wanted.get(FLAG), most(checkpoint)
    out: dict[str, FlagValue] = {}
    too_long = isinstance(given, int) and given > limit
    if too_long or (given is None and limit > checkpoint.context_length):
        # A longer context than the checkpoint's is refused by the engine.
        out[FLAG] = limit
    if (pool := _below(as_given({**wanted, **out}, extra), checkpoint)) is not None:
        # The scheduler lets a longer text wait for ever, and everything behind it too.
        out[FLAG] = pool
    return out


def _below(asked: Mapping[str, FlagValue], checkpoint: Checkpoint) -> int | None:
    """Tokens of a KV cache that cannot hold one text of the whole context; None where it can."""
    pool, context = asked.get(POOL), asked.get(FLAG)
    if not isinstance(context, int):
        context = checkpoint.context_length
    return pool if isinstance(pool, int) and 0 < pool < context else None


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
        exit_code=ExitCode.USAGE,
        fix=f"give {limit} at most, or leave it out",
    )


def reasons(
    asked: Mapping[str, FlagValue],
    used: Mapping[str, FlagValue],
    extra: tuple[str, ...],
    checkpoint: Checkpoint,
) -> tuple[str, ...]:
    """Why the context is what it is, where no profile says so.

    Args:
        asked: the settings' flags.
        used: the plan's.
        extra: the user's own options.
        checkpoint: what is served.
    """
    wanted, has = asked.get(FLAG), checkpoint.context_length
    out: list[str] = []
    if isinstance(wanted, int) and wanted > most(checkpoint):
        out.append(f"context {has}: the checkpoint has no more (the profile says {wanted})")
    elif used.get(FLAG) == most(checkpoint) > has:
        out.append(f"context {most(checkpoint)}: {has} positions can be used, all of them by texts")
    pool = as_given(used, extra).get(POOL)
    if used.get(FLAG) == pool and pool is not None:
        out.append(f"context {pool}: the KV cache (--{POOL}) holds no longer text")
    elif (pool := _below(as_given(used, extra), checkpoint)) is not None:
        out.append(f"a text of more than the KV cache's {pool} tokens would wait for ever")
    return tuple(out)


def as_given(flags: Mapping[str, FlagValue], extra: tuple[str, ...]) -> dict[str, FlagValue]:
    """Flags with the whole numbers of the user's own options in them, for the prediction."""
    out = dict(flags)
    for position, word in enumerate(extra):
        if not word.startswith("--"):
            continue
        name, _, value = word.removeprefix("--").partition("=")
        following = extra[position + 1] if position + 1 < len(extra) else ""
        text = value or following
        if text.lstrip("-").isdecimal():
            out[name] = int(text)
    return out


def options(words: tuple[str, ...]) -> list[str]:
    """The options among the words of a command line."""
    return [word for word in words if word.startswith("--")]
