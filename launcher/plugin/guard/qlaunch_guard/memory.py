"""Gives back the memory that large calls took: the C library keeps what was freed, for later.

A front that answered thousands of inputs at once would otherwise stay as large as it was then.
"""

import asyncio
import ctypes

AFTER_TOKENS = 20_000
"""Tokens served since the last time, below which there is nothing worth giving back."""
AN_INPUT = 20
"""So many tokens' worth is an input besides: its vector is held, too."""
A_TOKEN_OF_BYTES = 100
"""Bytes of a body that count as a token, whether it was answered or not."""
AFTER_SECONDS = 1.0
"""Without any call."""


class Memory:
    """The front's own; `is_idle` says whether no call is open."""

    def __init__(self, is_idle):
        self._is_idle = is_idle
        self._tokens = 0
        self._timer = None
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)

    def served(self, tokens, inputs=0, size=0):
        """Note what a call was, the bytes of its body included."""
        self._tokens += tokens + inputs * AN_INPUT + size // A_TOKEN_OF_BYTES

    def idle(self):
        """No call is open: give back in a second, if none comes."""
        if self._trim is not None and self._tokens >= AFTER_TOKENS and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(AFTER_SECONDS, self._give_back, loop)

    def _give_back(self, loop):
        self._timer = None
        if self._is_idle():
            self._tokens = 0
            # It takes milliseconds, and lets go of the interpreter meanwhile.
            loop.run_in_executor(None, self._trim, 0)
