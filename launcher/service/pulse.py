"""The beat of a verified engine: `/health`, and now and then a real embedding.

SGLang's `/health` can say 200 while embeddings hang for ever, so every `embed_s` a short text is
embedded, unless the access log shows calls being answered; and at once where `/health` fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from launcher.service import health
from launcher.service.health import Answer
from launcher.service.limbs import Limbs
from launcher.service.loop import Loop, Timer
from launcher.service.vitals import Beat, Signs, Verdict, Vitals
from launcher.service.wiring import Timing

Done = Callable[[Answer], object]
Ask = Callable[[str, bytes, float, Done], object]
"""Path, body (empty: GET), seconds, and who gets the answer."""
Tell = Callable[[Verdict, str], object]


class Pulse:
    """Looks at an engine for as long as it lives, one look at a time."""

    def __init__(
        self,
        loop: Loop,
        timing: Timing,
        *,
        ask: Ask,
        limbs: Limbs,
        model: str,
        dimensions: int,
        tell: Tell,
    ) -> None:
        """Begin, `beat_s` from now. `tell` gets each look's verdict with what was answered."""
        self._loop, self._timing = loop, timing
        self._ask, self._limbs, self._tell = ask, limbs, tell
        self._body, self._dimensions = health.embedding_request(model), dimensions
        self._vitals = Vitals(misses=timing.beat_failures, hangs=timing.hang_failures)
        self.signs = Signs()
        self._proved_at = time.monotonic()
        self.latency_ms: float | None = None
        """Of the last embedding of our own that was answered right, whole call."""
        self._limbs.cores()
        self._timer: Timer = loop.call_later(timing.beat_s, self._look)

    def stop(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        self._ask("/health", b"", self._timing.health_timeout_s, self._health)

    def _health(self, answer: Answer) -> None:
        if self.signs.served:
            self._proved_at = time.monotonic()
        if answer.ok and time.monotonic() - self._proved_at < self._timing.embed_s:
            self._judge(Beat(healthy=True), answer)
            return
        limit = self._timing.health_timeout_s
        if self._vitals.patient:
            limit = self._timing.patient_s
        asked = time.monotonic()
        self._ask(
            "/v1/embeddings", self._body, limit, lambda found: self._embedded(answer, found, asked)
        )

    def _embedded(self, answer: Answer, found: Answer, asked: float) -> None:
        problem = health.embedding_problem(found, self._dimensions) or ""
        if not problem:
            self._proved_at = time.monotonic()
            self.latency_ms = round(1000 * (self._proved_at - asked), 1)
        self._judge(Beat(healthy=answer.ok, embedding=problem), answer)

    def _judge(self, beat: Beat, answer: Answer) -> None:
        self.signs.cores = self._limbs.cores()
        verdict = self._vitals.judge(beat, self.signs)
        self.signs = Signs()
        said = [f"/health: {answer}"] if not answer.ok else []
        said += [f"/v1/embeddings: {beat.embedding}"] if beat.embedding else []
        soon = verdict in {"doubtful", "ill"}
        self._timer = self._loop.call_later(
            self._timing.beat_s / (6 if soon else 1), self._look
        )  # before telling: what is told may stop us
        self._tell(verdict, "; ".join(said))
