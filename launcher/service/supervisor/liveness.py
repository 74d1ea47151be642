"""Whether a verified engine is well, busy, doubtful or wedged: judged from what was seen. Pure.

A busy server is not a dead one. A long prefill makes SGLang's `/health` answer 503 after 20 s and
an embedding wait its turn, so a check that fails while the engine is seen at work (batches of
other callers in its log, CPU time of its scheduler) proves nothing. The next embedding check then
gets more time, and its failure counts whatever else is seen: a server that cannot answer one short
text in two minutes serves nobody.

Only a failed embedding leads to a restart; a failed `/health` alone makes a service `degraded`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from launcher.service.supervisor.batch_counter import prefill_batch

Verdict = Literal["well", "busy", "doubtful", "ill", "wedged", "odd", "drifted"]
"""well: proved. busy: no answer, but at work. doubtful: one check failed. ill: enough of them
failed in a row to say so. wedged: embeddings hang, and nothing else will end that. odd: a wrong
vector that a second look did not confirm. drifted: the vectors are not the verified ones any more.
The last two are for pulse.py to say, which sees the vectors."""

BUSY_CORES = 0.2
"""Cores that the scheduler must have used since the last look to count as at work. An idle one
takes 0.02 (measured, `--sleep-on-idle`); one in a forward pass, 0.5 to all it may."""

EXCUSED = 5
"""Embedding checks of the longer time (120 s each) that batches of others excuse, in a row."""

_SERVED = re.compile(r'"POST /(?:v1/embeddings|encode)[^"]*" 200')


@dataclass(slots=True)
class Activity:
    """What the engine was seen doing since the last look, without having been asked."""

    sequences: int = 0
    """Texts in logged batches, without the single token of a health check."""
    served: int = 0
    """Embedding calls that its access log says were answered."""
    cores: float = 0.0
    """CPU seconds of its scheduler for each second that passed."""

    def read(self, line: str) -> None:
        """Take note of a log line."""
        if (batch := prefill_batch(line)) is not None:
            self.sequences += batch.texts
        elif '" 200' in line and _SERVED.search(line):
            self.served += 1

    def at_work(self, asked: int) -> bool:
        """Whether it worked for others; `asked` texts were our own."""
        return self.sequences > asked or self.cores >= BUSY_CORES


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What came of one look."""

    healthy: bool
    """`/health` said 200."""
    embedding: str | None = None
    """None: not asked. Empty: a right answer came. Else why not."""
    texts: int = 1
    """How many texts of our own were asked."""


class LivenessJudge:
    """The judgement, from beat to beat."""

    def __init__(self, *, misses: int, hangs: int) -> None:
        """`misses` failures in a row make it ill, `hangs` failed embeddings wedged."""
        self._misses_limit, self._hangs_limit = misses, hangs
        self._misses = 0
        self._hangs = 0
        self._excused = 0
        self.patient = False
        """Whether the next embedding check gets the longer time, and its failure counts."""

    def judge(self, beat: ProbeResult, signs: Activity) -> Verdict:
        """Take one beat into account."""
        failed = bool(beat.embedding)
        answered = beat.embedding == "" or signs.served > 0
        if answered:
            # Others are answered and we were not: the next look waits in the queue for longer.
            self._hangs, self._excused, self.patient = 0, 0, failed
        if beat.healthy and (answered or not failed):
            self._misses = 0
            return "well"
        asked = 0 if beat.embedding is None else beat.texts
        if self._excuses(signs, asked) or (answered and signs.at_work(asked)):
            self.patient = failed and not answered
            return "busy"
        self._misses += 1
        self._hangs += failed and not answered
        if self._hangs >= self._hangs_limit:
            return "wedged"
        return "ill" if self._misses >= self._misses_limit else "doubtful"

    def _excuses(self, signs: Activity, asked: int) -> bool:
        """Whether what was seen excuses a check without an answer.

        CPU time excuses one. Batches of others are progress: they excuse as many patient ones as a
        call of the largest size may take, behind which every other waits.
        """
        if not self.patient:
            return signs.at_work(asked)
        self._excused += signs.sequences > asked
        return signs.sequences > asked and self._excused <= EXCUSED
