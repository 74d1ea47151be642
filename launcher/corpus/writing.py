"""Answers into the output, in the order of the rows, committed every other second."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from launcher.corpus.asking import Answer
from launcher.corpus.batches import Batch, failed
from launcher.corpus.encoders import Encoder
from launcher.corpus.output import Output
from launcher.corpus.records import Problem
from launcher.errors import ExitCode, QlaunchError

COMMIT_S: Final = 2.0
"""Between two commits: what a death costs at most, and then is embedded again."""
FAILED_IN_A_ROW: Final = 20
"""Texts that servers failed on, one after another, after which nothing is going to work."""

Progress = Callable[[Output], None]
"""Called after every batch that was written."""


@dataclass
class Writer:
    """Takes batches in their order.

    Args:
        output: what is written, opened.
        encoder: its format.
        progress: told of every batch.
    """

    output: Output
    encoder: Encoder
    progress: Progress
    _held: list[tuple[Batch, Sequence[Answer]]] = field(default_factory=list)
    """Batches that servers failed on, and nothing but, one after another."""
    _committed: float = field(default_factory=time.monotonic)

    @property
    def due(self) -> bool:
        """Whether it is time for a commit."""
        return time.monotonic() - self._committed >= COMMIT_S

    def commit(self) -> None:
        """Have everything so far on the disk, and count it."""
        self.output.commit()
        self._committed = time.monotonic()

    def take(self, batch: Batch, answers: Sequence[Answer]) -> None:
        """Write a batch, or hold it back while servers fail on everything.

        Raises:
            QlaunchError: `embed_failed` (exit 1): it is not the texts. What is held back is not
                written, and will be asked for again.
        """
        problems = [each for each in answers if isinstance(each, Problem)]
        failures = [each for each in problems if each.reason == "failed"]
        self._held.append((batch, answers))
        if not failures or len(problems) < len(answers):
            self.release()
        elif sum(len(held.good) for held, _ in self._held) >= FAILED_IN_A_ROW:
            raise QlaunchError(
                f"every text fails: {failures[-1].message}",
                code="embed_failed",
                exit_code=ExitCode.UNEXPECTED,
                fix="look at the service, then run the same command again to go on",
            )

    def release(self) -> None:
        """Write what is held back: it was the texts."""
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
