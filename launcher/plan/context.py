"""The engine's context length: what the checkpoint has, and what its KV cache can hold. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from launcher.config.profile import FlagValue
from launcher.errors import ExitCode, QlaunchError
from launcher.model.checkpoint import Checkpoint
from launcher.model.inspect import OFFSET_POSITIONS

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


def environment(
    used: Mapping[str, FlagValue], extra: tuple[str, ...], checkpoint: Checkpoint
) -> dict[str, str]:
    """The variable without which the engine refuses a context that exceeds config.json's.

    Args:
        used: the plan's flags.
        extra: the user's own options.
        checkpoint: what is served.
    """
    context = as_given(used, extra).get(FLAG)
    beyond = isinstance(context, int) and checkpoint.context_length < context <= most(checkpoint)
    return {LONGER: "1"} if beyond and checkpoint.model_type not in OFFSET_POSITIONS else {}


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
    if (held := _below(as_given({**wanted, **out}, extra), checkpoint)) is not None:
        # The scheduler lets a longer text wait for ever, and everything behind it too.
        out[FLAG] = held
    return out


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
    given = as_given(used, extra)
    unbound = {name: value for name, value in given.items() if name != FLAG}
    held = _below(given, checkpoint)
    if held is not None:
        out.append(f"a text of {held} tokens or more would wait for ever: --{POOL} {given[POOL]}")
    elif (held := _below(unbound, checkpoint)) is not None and used.get(FLAG) == held:
        out.append(f"context {held}: the KV cache (--{POOL} {given[POOL]}) holds no longer text")
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
