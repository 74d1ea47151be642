"""What the engine's log says of its work, without asking it.

SGLang's scheduler logs every batch it has computed, with the texts and tokens in it and how many
requests still wait. Reading that costs the engine nothing; its `/v1/loads` wakes the scheduler, and
its `/metrics` needs a flag at the start and bookkeeping for every request.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_BATCH = re.compile(
    r"Prefill batch[^,.]{0,20}[,.] #new-seq: (\d+), #new-token: (\d+)(?:.*?#queue-req: (\d+))?"
)


@dataclass(slots=True)
class BatchCounter:
    """Counts since it was made. `/health` sends one token through the scheduler: not counted."""

    texts: int = 0
    """Texts in logged batches; the supervisor's own check, one a minute, is among them."""
    tokens: int = 0
    """Tokens that were computed; those from the prefix cache are not."""
    batches: int = 0
    queue: int | None = None
    """Requests that waited when the last batch was logged; None before the first, or unsaid."""

    def read(self, line: str) -> bool:
        """Take note of a log line; whether it told of a batch."""
        if "Prefill batch" not in line:
            return False
        found = _BATCH.search(line)
        if found is None:
            return False
        texts, tokens = int(found[1]), int(found[2])
        if (texts, tokens) == (1, 1):
            return False
        self.texts += texts
        self.tokens += tokens
        self.batches += 1
        self.queue = None if found[3] is None else int(found[3])
        return True
