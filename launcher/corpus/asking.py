"""Texts into vectors, or into the reason why not: what is refused together is asked in parts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from launcher.corpus.batches import Limits
from launcher.corpus.endpoints import FailedError, Pool, RefusedError
from launcher.corpus.records import Problem, Reason, Vector
from launcher.corpus.truncation import longest, speaks_of_length

_INDEX: Final = re.compile(r"\binput\[(\d+)\]")

Answer: TypeAlias = "Vector | Problem"


@dataclass(frozen=True)
class Asker:
    """Asks servers for the texts of one batch after another.

    Args:
        pool: who embeds.
        limits: of a call.
        worded: puts the prompt before a text.
    """

    pool: Pool
    limits: Limits
    worded: Callable[[str], str]

    async def ask(self, texts: Sequence[str]) -> list[Answer]:
        """A vector or a problem for each text, in their order; as `Pool.ask` where no server will
        do.
        """
        if not texts:
            return []
        try:
            return [*(await self.pool.ask([self.worded(text) for text in texts]))[0]]
        except (RefusedError, FailedError) as error:
            if len(texts) == 1:
                return [await self._alone(texts[0], error)]
            answers: list[Answer] = []
            for part in _parts(texts, str(error)):
                answers += await self.ask(part)
            return answers

    async def _alone(self, text: str, error: RefusedError | FailedError) -> Answer:
        message = str(error)
        if isinstance(error, FailedError):
            return Problem("failed", message)
        reason: Reason = "refused"
        if speaks_of_length(message):
            reason = "too_long"
            if self.limits.truncate and (found := await self._cut(text)) is not None:
                return found
        return Problem(reason, message)

    async def _cut(self, text: str) -> Vector | None:
        async def ask(beginning: str) -> tuple[Vector, int | None]:
            vectors, tokens = await self.pool.ask([self.worded(beginning)])
            return vectors[0], tokens

        try:
            return await longest(text, ask)
        except (RefusedError, FailedError):
            return None


def _parts(texts: Sequence[str], message: str) -> list[Sequence[str]]:
    """What to ask instead of `texts`: all around the one that is named, else both halves."""
    named = _INDEX.search(message)
    at = int(named[1]) if named else len(texts)
    if at < len(texts):
        parts = [texts[:at], texts[at : at + 1], texts[at + 1 :]]
    else:
        middle = len(texts) // 2
        parts = [texts[:middle], texts[middle:]]
    return [part for part in parts if part]
