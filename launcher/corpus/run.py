"""The run: batches go out many at a time, come back in any order, and are written in theirs."""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from launcher.corpus.batches import Batch, Limits, batches, failed
from launcher.corpus.encoders import Encoder
from launcher.corpus.endpoints import FailedError, Pool, RefusedError
from launcher.corpus.inputs import Inputs
from launcher.corpus.output import Output
from launcher.corpus.records import Problem, Reason, Vector
from launcher.corpus.truncation import longest, speaks_of_length
from launcher.errors import ExitCode, QlaunchError

COMMIT_S: Final = 2.0
"""Between two commits: what a death costs at most, and then is embedded again."""
AHEAD: Final = 4
"""Batches that are read for each that is asked, so that no server waits for a slow one's answer."""
AHEAD_BYTES: Final = 32 << 20
"""Most bytes of rows and vectors that wait, one batch always excepted."""
FAILED_IN_A_ROW: Final = 20
"""Texts that servers failed on, one after another, after which nothing is going to work."""
_INDEX: Final = re.compile(r"\binput\[(\d+)\]")

Answer: TypeAlias = "Vector | Problem"
Progress = Callable[[Output], None]
"""Called after every batch that was written."""


@dataclass
class Run:
    """One run under way.

    Args:
        inputs: what is read.
        output: what is written, opened.
        encoder: its format.
        pool: who embeds.
        limits: of a call.
        worded: puts the prompt before a text.
        at_once: calls under way.
        progress: told of every batch.
    """

    inputs: Inputs
    output: Output
    encoder: Encoder
    pool: Pool
    limits: Limits
    worded: Callable[[str], str]
    at_once: int
    progress: Progress
    _slots: asyncio.Semaphore = field(init=False)
    _waiting: deque[tuple[Batch, asyncio.Task[list[Answer]]]] = field(default_factory=deque)
    _held: list[tuple[Batch, Sequence[Answer]]] = field(default_factory=list)
    """Batches that servers failed on, and nothing but, one after another."""
    _committed: float = 0.0

    async def whole(self) -> bool:
        """Embed what is left and commit it; whether it was interrupted.

        What was done until an interrupt or an error is committed.

        Raises:
            QlaunchError: as `Pool.ask`; `embed_failed` where servers fail on every row.
            OSError: the disk.
        """
        self._slots = asyncio.Semaphore(self.at_once)
        self._committed = time.monotonic()
        rows = self.inputs.rows(self.output.at.position)
        try:
            await self._all(batches(rows, self.limits, self.worded))
        except asyncio.CancelledError:
            return True
        finally:
            for _, task in self._waiting:
                task.cancel()
            await asyncio.gather(*(task for _, task in self._waiting), return_exceptions=True)
            self.output.commit()
        return False

    async def _all(self, source: Iterator[Batch]) -> None:
        more = True
        while more or self._waiting:
            while more and self._room():
                batch = next(source, None)
                if batch is None:
                    more = False
                else:
                    task = asyncio.ensure_future(self._answers(batch))
                    self._waiting.append((batch, task))
                    await asyncio.sleep(0)  # let it be sent before the next is read
            if self._waiting:
                batch, task = self._waiting[0]
                answers = await task
                self._waiting.popleft()
                self._take(batch, answers)
                if time.monotonic() - self._committed >= COMMIT_S:
                    await self._commit()
        self._release()

    async def _commit(self) -> None:
        """Commit beside the calls; an interrupt waits for it, since two at once would mix."""
        work = asyncio.ensure_future(asyncio.to_thread(self.output.commit))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await work
            raise
        self._committed = time.monotonic()

    def _room(self) -> bool:
        held = sum(batch.size + batch.bytes for batch, _ in self._waiting)
        return len(self._waiting) < AHEAD * self.at_once and held < AHEAD_BYTES

    def _take(self, batch: Batch, answers: Sequence[Answer]) -> None:
        """Write a batch, or hold it back while servers fail on everything.

        Raises:
            QlaunchError: `embed_failed` (exit 1): it is not the texts. What is held back is not
                written, and will be asked for again.
        """
        problems = [each for each in answers if isinstance(each, Problem)]
        failures = [each for each in problems if each.reason == "failed"]
        self._held.append((batch, answers))
        if not failures or len(problems) < len(answers):
            self._release()
        elif sum(len(held.good) for held, _ in self._held) >= FAILED_IN_A_ROW:
            raise QlaunchError(
                f"every text fails: {failures[-1].message}",
                code="embed_failed",
                exit_code=ExitCode.UNEXPECTED,
                fix="look at the service, then run the same command again to go on",
            )

    def _release(self) -> None:
        for batch, answers in self._held:
            self._write(batch, answers)
        self._held = []

    def _write(self, batch: Batch, answers: Sequence[Answer]) -> None:
        pairs = list(zip(batch.good, answers, strict=True))
        bad = batch.bad + [failed(row, each) for row, each in pairs if isinstance(each, Problem)]
        rows = [row for row, each in pairs if not isinstance(each, Problem)]
        vectors = [each for each in answers if not isinstance(each, Problem)]
        bad.sort(key=lambda row: row.after)
        self.output.append(self.encoder.encode(rows, vectors), len(rows), bad, batch.after)
        self.progress(self.output)

    async def _answers(self, batch: Batch) -> list[Answer]:
        if not batch.texts:
            return []
        async with self._slots:
            return await self._ask(batch.texts)

    async def _ask(self, texts: Sequence[str]) -> list[Answer]:
        """A vector or a problem for each text: what is refused together is asked in parts."""
        try:
            return [*(await self.pool.ask([self.worded(text) for text in texts]))[0]]
        except (RefusedError, FailedError) as error:
            if len(texts) == 1:
                return [await self._alone(texts[0], error)]
            answers: list[Answer] = []
            for part in _parts(texts, str(error)):
                answers += await self._ask(part)
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
