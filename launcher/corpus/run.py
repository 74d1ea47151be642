"""The run: batches go out many at a time, come back in any order, and are written in theirs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from launcher.corpus.asking import Answer, Asker
from launcher.corpus.batches import Batch, batches
from launcher.corpus.inputs import Inputs
from launcher.corpus.writing import Writer

AHEAD: Final = 4
"""Batches that are read for each that is asked, so that no server waits for a slow one's answer."""
AHEAD_BYTES: Final = 32 << 20
"""Most bytes of rows and vectors that wait, one batch always excepted."""


@dataclass
class Run:
    """One run under way.

    Args:
        inputs: what is read.
        asker: who embeds.
        writer: takes the answers.
        at_once: calls under way.
    """

    inputs: Inputs
    asker: Asker
    writer: Writer
    at_once: int
    _slots: asyncio.Semaphore = field(init=False)
    _waiting: deque[tuple[Batch, asyncio.Task[list[Answer]]]] = field(default_factory=deque)

    async def whole(self) -> bool:
        """Embed what is left and commit it; whether it was interrupted.

        What was done until an interrupt or an error is committed.

        Raises:
            QlaunchError: as `Pool.ask`; `embed_failed` where servers fail on every row.
            OSError: the disk.
        """
        self._slots = asyncio.Semaphore(self.at_once)
        rows = self.inputs.rows(self.writer.output.at.position)
        try:
            await self._all(batches(rows, self.asker.limits, self.asker.worded))
        except asyncio.CancelledError:
            return True
        finally:
            for _, task in self._waiting:
                task.cancel()
            await asyncio.gather(*(task for _, task in self._waiting), return_exceptions=True)
            self.writer.commit()
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
                self.writer.take(batch, answers)
                if self.writer.due:
                    await self._commit()
        self.writer.release()

    async def _commit(self) -> None:
        """Commit beside the calls; an interrupt waits for it, since two at once would mix."""
        work = asyncio.ensure_future(asyncio.to_thread(self.writer.commit))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await work
            raise

    def _room(self) -> bool:
        held = sum(batch.size + batch.bytes for batch, _ in self._waiting)
        return len(self._waiting) < AHEAD * self.at_once and held < AHEAD_BYTES

    async def _answers(self, batch: Batch) -> list[Answer]:
        if not batch.texts:
            return []
        async with self._slots:
            return await self.asker.ask(batch.texts)
