"""The beat of a verified engine: `/health`, and an embedding of a text whose vector was proved.

SGLang's `/health` can say 200 while embeddings hang for ever, and an engine whose weights were
changed answers as fast as before. So every look embeds the beat's text, however busy the engine
is, and compares (drift.py). A wrong vector is looked at a second time at once: confirmed, the
service is no longer what was verified.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from launcher.service.supervisor import http_probe
from launcher.service.supervisor.drift import ODD_LIMIT, Finding, Proof
from launcher.service.supervisor.event_loop import Loop, Timer
from launcher.service.supervisor.http_probe import HttpAnswer
from launcher.service.supervisor.liveness import Activity, LivenessJudge, ProbeResult, Verdict
from launcher.service.supervisor.timing import Timing
from launcher.service.supervisor.worker_watch import EngineWorkers

Done = Callable[[HttpAnswer], object]
Ask = Callable[[str, bytes, float, Done], object]
"""Path, body (empty: GET), seconds, and who gets the answer."""
Tell = Callable[[Verdict, str], object]


MOST_TEXTS = 32


def texts_for(replicas: int) -> int:
    """How often one look asks the text, so that every replica answers it.

    Replicas take texts in turn. Others' texts come between ours, so two are asked for each: one
    that goes unasked twice in a row is then unlikely, and the text has a few tokens. An answer of
    `MOST_TEXTS` vectors stays far below what is read of one (health.BODY_LIMIT).
    """
    return 1 if replicas <= 1 else min(2 * replicas, MOST_TEXTS)


class LivenessProbe:
    """Looks at an engine for as long as it lives, one look at a time."""

    def __init__(
        self,
        loop: Loop,
        timing: Timing,
        *,
        ask: Ask,
        workers: EngineWorkers,
        model: str,
        replicas: int,
        proof: Proof,
        tell: Tell,
    ) -> None:
        """Begin, `beat_s` from now. `tell` gets each look's verdict with what was answered."""
        self._loop, self._timing = loop, timing
        self._ask, self._workers, self._tell = ask, workers, tell
        self._texts = texts_for(replicas)
        self._body, self._proof = http_probe.embedding_request(model, self._texts), proof
        self._asked_texts = 0
        self._liveness = LivenessJudge(misses=timing.beat_failures, hangs=timing.hang_failures)
        self.signs = Activity()
        self.latency_ms: float | None = None
        """Of the last embedding of our own that was answered right, whole call."""
        self.cosine: float | None = None
        """Of that answer with the proved vector."""
        self._workers.cores()
        self._looking = False
        self._timer: Timer = loop.call_later(timing.beat_s, self._look)

    def stop(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def hurry(self) -> None:
        """Look at once: something has changed."""
        if not self._looking:
            self._timer.cancel()
            self._look()

    def _look(self) -> None:
        self._asked_texts, self._looking = 0, True
        self._ask("/health", b"", self._timing.health_timeout_s, self._embed)

    def _embed(self, answer: HttpAnswer) -> None:
        """Ask for the vector, after `/health` gave this answer."""
        limit = self._timing.health_timeout_s
        if self._liveness.patient:
            limit = self._timing.patient_s
        asked = time.monotonic()
        self._asked_texts += self._texts
        self._ask(
            "/v1/embeddings", self._body, limit, lambda found: self._embedded(answer, found, asked)
        )

    def _embedded(self, answer: HttpAnswer, found: HttpAnswer, asked: float) -> None:
        vectors = http_probe.embeddings(found)
        if isinstance(vectors, str):
            self._judge(answer, vectors)
            return
        finding = self._proof.look(vectors)
        if finding.fault and not self._proof.in_doubt:
            self._proof.doubt(finding)
            self._embed(answer)
        elif finding.fault:
            self._drifted(f"{finding.fault}, twice in a row")
        else:
            self.latency_ms = round(1000 * (time.monotonic() - asked), 1)
            self.cosine = finding.cosine
            self._sound(answer, self._proof.clear())

    def _sound(self, answer: HttpAnswer, doubt: Finding | None) -> None:
        """The vector is the proved one; `doubt` if it was not a moment ago."""
        if doubt is not None and self._proof.odd >= ODD_LIMIT:
            self._drifted(f"{doubt.fault}; {self._proof.odd} answers were wrong, others right")
            return
        if doubt is not None:
            self._tell("odd", doubt.fault)
        self._judge(answer, "")

    def _drifted(self, detail: str) -> None:
        """There is nothing more to look at: the owner ends this life."""
        self._tell("drifted", detail)

    def _judge(self, answer: HttpAnswer, problem: str) -> None:
        self._looking = False
        self.signs.cores = self._workers.cores()
        beat = ProbeResult(healthy=answer.ok, embedding=problem, texts=self._asked_texts)
        verdict = self._liveness.judge(beat, self.signs)
        self.signs = Activity()
        said = [f"/health: {answer}"] if not answer.ok else []
        said += [f"/v1/embeddings: {problem}"] if problem else []
        soon = verdict in {"doubtful", "ill"} or self._proof.in_doubt
        self._timer = self._loop.call_later(
            self._timing.beat_s / (6 if soon else 1), self._look
        )  # before telling: what is told may stop us
        self._tell(verdict, "; ".join(said))
