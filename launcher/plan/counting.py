"""Memory with which an engine counts the tokens of a cache that it does not have. Pure.

Without a cache of keys and values its scheduler still keeps a list of all its places, and looks
through it: how many are taken decides how many texts are admitted.
"""

from __future__ import annotations

from typing import Final

IN_BASE: Final = 16_384
"""Tokens of the engines whose memory was measured (`memory.CPU_BASE_BYTES`): theirs is in it."""
TOKEN_BYTES: Final = 80
"""Of each one more. MiniLM's tree took 596 MB with 16,384 tokens, 671 with 1,000,000 and 765 with
2,373,698, which is 71 to 76 B each (SGLang 0.5.23, two cores)."""


def size(asked: int | None, *, pool: int, per_token: int) -> tuple[int, str]:
    """Bytes beyond those of the engine itself, and how they come about; 0 and nothing for few.

    Args:
        asked: --max-total-tokens; None where it is not given.
        pool: bytes of the engine's share of the memory; 0 where nobody knows.
        per_token: bytes of keys and values of one token: SGLang counts no more than the share
            would hold, whatever is asked for.
    """
    held = pool // per_token if pool else None
    tokens = min((count for count in (asked, held) if count is not None), default=0)
    count = max(0, tokens - IN_BASE) * TOKEN_BYTES
    return count, f"; {tokens} tokens are counted, {TOKEN_BYTES} B each" if count else ""
