"""The smoke of one service: ask, read, check, name the suspect.

Few calls serve all checks: one batch of every text, some of them again, reversed, alone and in the
client's default format, one call with more inputs than the engine runs at once, one after it, and
the longest input that is answered and the shortest that is refused.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from launcher.documents.smoke import Check, SmokeReport, VerifyRequest
from launcher.verify import checks, texts
from launcher.verify.beat import BEAT
from launcher.verify.diagnose import diagnose
from launcher.verify.edges import EDGE_S, NOT_ASKED, Edges, ask_edges
from launcher.verify.edges import edges as check_edges
from launcher.verify.embedding_client import CallError, EmbeddingClient
from launcher.verify.observations import Ask, Observations, Reading, read
from launcher.verify.reference import Outcome, obtain
from launcher.verify.timed_session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from launcher.verify.reference import Vector
    from launcher.verify.texts import Text

CALL_LIMIT_S = 30.0
"""Longest wait for one call; the first and largest takes about 2 s for Qwen3-0.6B on two cores."""
OVERFLOW_EXTRA = 8
"""Inputs beyond `max_running_requests` in the overflow call."""
OVERFLOW_LIMIT = 4096
"""Most inputs asked for in one call."""
_ROOMY = 512
"""A context that holds every text of the smoke in any tokenizer that is not byte by byte."""


def run_smoke(
    request: VerifyRequest,
    *,
    key: str | None,
    outcome: Outcome | None = None,
) -> SmokeReport:
    """Verify one service; never raises for what a server or a checkpoint does.

    Args:
        request: what to ask and what to expect.
        key: the service's API key, or None.
        outcome: the reference, if `obtain` was called before; else it is obtained first.
    """
    outcome = outcome if outcome is not None else obtain(request, texts.TEXTS)
    return prove(request, outcome, EmbeddingClient(request.endpoint, request.model, key))[0]


def prove(
    request: VerifyRequest, outcome: Outcome, client: EmbeddingClient
) -> tuple[SmokeReport, Vector | None]:
    """The smoke's report, and the vector of the beat's text as it was asked alone.

    The vector is None where no usable one came. The client is closed at the end.
    """
    left_out = too_long(request, outcome)
    began = time.monotonic()
    try:
        asks = ask_all(request, client, left_out)
        edges = _ask_edges(request, client, asks, began)
    finally:
        client.close()
    evidence = Observations(request, asks, outcome, left_out)
    return judge(evidence, edges, began), read(evidence).vectors.get(f"alone:{BEAT}", {}).get(BEAT)


def too_long(
    request: VerifyRequest, outcome: Outcome, asked: Sequence[Text] = texts.TEXTS
) -> frozenset[str]:
    """Names of the texts that a model of a short context would refuse.

    Known by the reference's token counts; without them a text counts one token a byte at worst.
    """
    limit, reference = request.context_length, outcome.reference
    tokens = reference.tokens if reference is not None else {}
    return frozenset(
        each.name
        for each in asked
        if tokens.get(each.name, 0 if limit >= _ROOMY else len(each.text.encode()) + 2) >= limit
    )


def calls(
    request: VerifyRequest, left_out: frozenset[str] = frozenset()
) -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """(call, names of its texts, texts) in the order they are made."""
    named = [
        ("first", (*(each.name for each in texts.TEXTS), texts.FRESH)),
        ("again", texts.AGAIN),
        ("reversed", texts.AGAIN[::-1]),
        *((f"alone:{name}", (name,)) for name in texts.ALONE),
        ("default", (texts.DEFAULT_FORMAT,)),
    ]
    inputs = {**texts.BY_NAME, texts.FRESH: texts.fresh_text()}
    for call, wanted in named:
        names = tuple(name for name in wanted if name not in left_out)
        if names:
            yield call, names, tuple(inputs[name] for name in names)
    count = min(request.max_running_requests + OVERFLOW_EXTRA, OVERFLOW_LIMIT)
    fillers = texts.overflow_texts(count)
    yield "overflow", tuple(f"filler {each}" for each in fillers), fillers
    # Asked whatever its length: any answer shows that the engine lives.
    yield "after", (texts.AFTER,), (texts.BY_NAME[texts.AFTER],)


def ask_all(
    request: VerifyRequest, client: EmbeddingClient, left_out: frozenset[str] = frozenset()
) -> dict[str, Ask]:
    """Make the calls one after the other, within `timeout_s`; a dead server ends them early.

    Later calls go on after an HTTP error of one of them, but not after the first call failed or
    after one got no answer: what would follow says nothing new, and only costs time.
    """
    deadline = time.monotonic() + request.timeout_s
    asks: dict[str, Ask] = {}
    over = False
    for call, names, inputs in calls(request, left_out):
        if over:
            asks[call] = Ask(call, names)
            continue
        left = min(CALL_LIMIT_S, deadline - time.monotonic())
        try:
            if call == "default":
                answer = client.embed_default(inputs[0], left)
            else:
                answer = client.embed(inputs, left)
            asks[call] = Ask(call, names, answer)
        except CallError as error:
            asks[call] = Ask(call, names, error=error)
            over = call == "first" or error.kind in ("timeout", "refused")
    return asks


def _ask_edges(
    request: VerifyRequest, client: EmbeddingClient, asks: dict[str, Ask], began: float
) -> Edges:
    """The edges of what an input may be, last: one that ends the engine hides nothing else."""
    if asks["after"].answer is None:
        return NOT_ASKED
    session = Session(client, request.timeout_s - (time.monotonic() - began))
    first = asks["first"].answer
    if first is not None and first.tokens:
        session.rate = first.tokens / max(first.seconds, 1e-3)
    return ask_edges(session, request, EDGE_S)


def judge(evidence: Observations, edges: Edges, began: float) -> SmokeReport:
    """The report on what was seen; `began` is the monotonic time of the first call."""
    reading = read(evidence)
    parity = checks.measure_parity(reading)
    results = (*checks.run(reading, parity), check_edges(edges, vectors=not reading.faults))
    return report(evidence, reading, results, parity, began)


def report(
    evidence: Observations,
    reading: Reading,
    results: tuple[Check, ...],
    parity: checks.Parity,
    began: float,
) -> SmokeReport:
    """What was seen, with the verdict on it; `began` is the monotonic time of the first call."""
    verdict = diagnose(reading, results, parity)
    worst, after = parity.worst, evidence.asks["after"].answer
    return SmokeReport(
        ok=all(check.ok for check in results),
        checks=results,
        suspect=verdict.suspect,
        explanation=verdict.explanation,
        worst_cosine=worst[0] if worst else None,
        mean_cosine=parity.mean,
        worst_text=worst[1] if worst else None,
        sample=sample(reading),
        latency_ms=round(after.seconds * 1000, 2) if after else None,
        seconds=round(time.monotonic() - began, 3),
        reference=evidence.outcome.status,
    )


def sample(reading: Reading) -> tuple[float, ...]:
    """First five numbers of the first text's vector, or of the first usable one."""
    vectors = reading.vectors.get("first", {})
    return tuple(next(iter(vectors.values()), [])[:5])
