"""What the engine's log says of its work, without asking it.

SGLang's scheduler logs every batch it has computed, with the texts and tokens in it and how many
requests still wait. Reading that costs the engine nothing; its `/v1/loads` wakes the scheduler, and
its `/metrics` needs a flag at the start and bookkeeping for every request.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from launcher.log_lines import BATCH

_BATCH = re.compile(
    BATCH + r"[^,.]{0,20}[,.] #new-seq: (\d+), #new-token: (\d+)(?:.*?#queue-req: (\d+))?"
)


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch that the scheduler has computed."""

    texts: int
    tokens: int
    """Those that were computed; those from the prefix cache are not."""
    queue: int | None
    """Requests that still waited; None where the line does not say."""


def prefill_batch(line: str) -> Batch | None:
    """The batch that a line of the engine's log tells of, if it does.

    None for a single token too: `/health` sends one through the scheduler, and what we asked proves
    nothing.
    """
    if BATCH not in line or (found := _BATCH.search(line)) is None:
        return None
    texts, tokens = int(found[1]), int(found[2])
    if (texts, tokens) == (1, 1):
        return None
    return Batch(texts, tokens, None if found[3] is None else int(found[3]))


@dataclass(slots=True)
class BatchCounter:
    """Counts since it was made."""

    texts: int = 0
    """Texts in logged batches; the supervisor's own check, one a minute, is among them."""
    tokens: int = 0
    """Tokens that were computed; those from the prefix cache are not."""
    batches: int = 0
    queue: int | None = None
    """Requests that waited when the last batch was logged; None before the first, or unsaid."""

    def read(self, line: str) -> bool:
        """Take note of a log line; whether it told of a batch."""
        batch = prefill_batch(line)
        if batch is None:
            return False
        self.texts += batch.texts
        self.tokens += batch.tokens
        self.batches += 1
        self.queue = batch.queue
        return True
