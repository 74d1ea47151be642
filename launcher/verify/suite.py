"""The long suite behind `qlaunch verify`: everything a text can be, asked in every way.

It stands on the smoke: the same client, evidence, reference, checks and suspects. What it adds is
more texts (languages, code, odd characters, the context's whole length), more orders, and the edges
of the API: cut vectors, token ids, base64, instructions, empty and over-long input.

The engine's time is bounded: a rate is measured first, and what does not fit is left out and named.
"""

from __future__ import annotations

import math
import random
import time
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from launcher.documents.smoke import GroupCosine, SuiteReport
from launcher.units import counted
from launcher.verify import (
    card_and_token_checks,
    checks,
    corpus,
    exact_lengths,
    suite_checks,
    texts,
)
from launcher.verify.edges import ask_edges
from launcher.verify.embedding_client import EmbeddingClient
from launcher.verify.instruction import wording
from launcher.verify.observations import Ask, Observations, read
from launcher.verify.reference import Outcome, obtain
from launcher.verify.smoke import OVERFLOW_EXTRA, OVERFLOW_LIMIT, report, too_long
from launcher.verify.suite_checks import Probes
from launcher.verify.texts import Text
from launcher.verify.timed_session import Session, estimate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from launcher.documents.smoke import VerifyRequest
    from launcher.verify.checks import Parity

DEFAULT_SECONDS = 60.0
"""Engine time by default: Qwen3-0.6B on two cores (260 tokens/s) takes all short texts in it."""
REFERENCE_TOKENS = 4096
"""Longest text that is computed in float32 beside the engine: some 5 TFLOP for Qwen3-0.6B, half a
minute on two cores. Longer ones are compared with themselves only."""
FIRST_SHARE = 0.25
"""Part of the time that the first call may take; the corpus is cut to fit."""
ORDERS_SEED = 7
_SAMPLE = tuple(each for each in corpus.CORPUS if each.name.startswith("lang_"))[:8]
_UNASKED = Outcome(None, "unavailable: the server does not answer, so none was computed")

Progress = Callable[[str], None]


def run_suite(
    request: VerifyRequest,
    *,
    key: str | None,
    seconds: float = DEFAULT_SECONDS,
    progress: Progress = lambda _: None,
) -> SuiteReport:
    """Verify one service at length; never raises for what a server or a checkpoint does.

    Args:
        request: what to ask and what to expect.
        key: the service's API key, or None.
        seconds: time that the engine's calls may take in all; the reference's comes on top, once.
        progress: told what is going on.
    """
    began = time.monotonic()
    session = Session(EmbeddingClient(request.endpoint, request.model, key), seconds)
    try:
        progress("measuring the rate, and making texts of exact lengths")
        session.measure(_SAMPLE)
        long = exact_lengths.make_long(session, request.longest)
        fixed = (*corpus.CORPUS, *instructed(request))
        compared = (*fixed, *(each for each in long if _tokens(each) <= REFERENCE_TOKENS))
        progress("the reference: from the cache, else computed in float32")
        outcome = _UNASKED if session.over else obtain(request, compared)
        left_out = too_long(request, outcome, fixed)
        progress("asking")
        probes = _ask_all(session, request, outcome, left_out, long)
    finally:
        session.close()
    evidence = Observations(request, session.asks, outcome, left_out)
    return _judge(evidence, session, probes, began)


def instructed(request: VerifyRequest) -> tuple[Text, ...]:
    """The queries with the model's prompt or instruction before them, `instructed:NAME`."""
    wanted = wording(request)
    if not wanted.query("").strip():
        return ()
    return tuple(
        Text(f"instructed:{name}", wanted.query(query)) for name, query in corpus.QUERIES.items()
    )


def _tokens(long: Text) -> int:
    return int(long.name.partition(":")[2])


# --- asking ---------------------------------------------------------------------------------------


def _ask_all(
    session: Session,
    request: VerifyRequest,
    outcome: Outcome,
    left_out: frozenset[str],
    long: Sequence[Text],
) -> Probes:
    """Make every call that the time allows, the telling ones first."""
    fitting = [each for each in corpus.CORPUS if each.name not in left_out]
    chosen = _affordable(session, outcome, fitting)
    fresh = Text(texts.FRESH, texts.fresh_text())
    known = {each.name: each for each in chosen}
    session.ask("first", [*chosen, fresh], always=True)
    session.ask("again", [*chosen, fresh])
    _ask_orders(session, outcome, chosen)
    for name in (name for name in corpus.ALONE if name in known):
        session.ask(f"alone:{name}", [known[name]])
    prefixed = [known[name] for name in corpus.PREFIXED if name in known]
    if prefixed:
        for each in prefixed:
            session.ask(f"prefix:{each.name}", [each])
        session.ask("prefix again", prefixed[::-1])
    _ask_formats(session, outcome, [known[name] for name in corpus.IDS if name in known])
    queries = [each for each in instructed(request) if each.name not in left_out]
    if queries:
        plain = [Text(name, text) for name, text in corpus.QUERIES.items() if name not in known]
        if plain:
            session.ask("queries", plain)
        session.ask("instructed", queries)
        session.ask("instructed again", queries[::-1])
    _ask_long(session, long, [known[name] for name in corpus.ALONE[:2] if name in known])
    probes = _probe(session, request)
    _ask_overflow(session, request)
    return probes


def _size(outcome: Outcome, asked: Iterable[Text]) -> int:
    counts = outcome.reference.tokens if outcome.reference is not None else {}
    return sum(counts.get(each.name) or estimate(each.text) for each in asked)


def _affordable(session: Session, outcome: Outcome, fitting: list[Text]) -> list[Text]:
    """The corpus, cut from its end until one call of it fits the first call's share."""
    chosen = list(fitting)
    smoke = len(texts.TEXTS)  # these stay, whatever they cost
    while len(chosen) > smoke and not session.affords(_size(outcome, chosen), FIRST_SHARE):
        chosen.pop()
    cut = fitting[len(chosen) :]
    if cut:
        session.left_out.append(
            f"{len(cut)} of {counted(len(fitting), 'text')}, from {cut[0].name} on"
        )
    return chosen


def _ask_orders(session: Session, outcome: Outcome, chosen: list[Text]) -> None:
    """The same texts in other orders and company, as far as the time allows."""
    some = len(chosen) // 2
    shuffled = random.Random(ORDERS_SEED).sample(chosen, some)  # noqa: S311 - an order
    orders = {"reversed": chosen[::-1], "shuffled": shuffled}
    for name, order in orders.items():
        if session.affords(_size(outcome, order), FIRST_SHARE):
            session.ask(name, order)
        else:
            session.left_out.append(f"the texts in {name} order")


def _ask_formats(session: Session, outcome: Outcome, some: list[Text]) -> None:
    """The same texts in the client's default format, in base64, and as token ids."""
    if not some:
        return
    session.ask("default", some[:1], encoding="default")
    session.ask("base64", some, encoding="base64")
    known = outcome.reference.ids if outcome.reference is not None else {}
    with_ids = [each for each in some if known.get(each.name)]
    if with_ids:
        session.ask("ids", with_ids, ids=[known[each.name] for each in with_ids])


def _ask_long(session: Session, long: Sequence[Text], short: list[Text]) -> None:
    """Each long text alone; the longest again, and between short ones."""
    for each in long:
        session.ask(each.name, [each])
    if long:
        session.ask("long again", [long[-1]])
        session.ask("long beside short", [*short[:1], long[-1], *short[1:]])


def _probe(session: Session, request: VerifyRequest) -> Probes:
    """The calls whose answer may be a refusal: each is judged by itself."""
    if session.over:
        return Probes()
    text = texts.BY_NAME["one_token"]
    width = max(request.dimensions // 2, 1)
    return Probes(
        width=width,
        cut=session.once([text], dimensions=width),
        whole=session.once([text]),
        empty=tuple(session.once(inputs) for inputs in ([""], ["   "], [text, ""])),
        too_long=session.once([exact_lengths.beyond(request.context_length)]),
        edges=ask_edges(
            session, request, session.seconds * exact_lengths.SHARE / exact_lengths.CALLS
        ),
    )


def _ask_overflow(session: Session, request: VerifyRequest) -> None:
    """More inputs than the engine runs at once, and one text after it."""
    count = min(request.max_running_requests + OVERFLOW_EXTRA, OVERFLOW_LIMIT)
    fillers = texts.overflow_texts(count)
    named = [Text(f"filler {each}", each) for each in fillers]
    session.ask("overflow", named, always=True)
    session.ask("after", [Text(texts.AFTER, texts.BY_NAME[texts.AFTER])], always=True)


# --- judging --------------------------------------------------------------------------------------


def _judge(evidence: Observations, session: Session, probes: Probes, began: float) -> SuiteReport:
    """The report on what was seen."""
    reading = read(evidence)
    parity = checks.measure_parity(reading)
    results = (
        checks.count(reading),
        checks.order(reading),
        checks.dimension(reading),
        checks.finite(reading),
        checks.unit_norm(reading),
        checks.parity_check(reading, parity),
        card_and_token_checks.tokens_check(reading),
        card_and_token_checks.card_check(evidence.request),
        *suite_checks.run(reading, probes),
        checks.related_closer(reading),
        checks.overflow(reading),
    )
    asked = {name for ask in evidence.asks.values() if ask.answer for name in ask.names}
    longs = [_length(ask) for ask in evidence.asks.values() if ask.name.startswith("long:")]
    return SuiteReport(
        **msgspec.structs.asdict(report(evidence, reading, results, parity, began)),
        groups=by_group(parity),
        texts=len(asked),
        tokens=session.tokens or None,
        tokens_per_s=round(session.rate, 1) if session.rate and session.tokens else None,
        longest_tokens=max(filter(None, longs), default=None),
        left_out=tuple(session.left_out),
    )


def _length(ask: Ask) -> int | None:
    return ask.answer.tokens if ask.answer is not None else None


def by_group(parity: Parity) -> tuple[GroupCosine, ...]:
    """Least and mean cosine by kind of text, in the corpus's order."""
    found: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for cosine, name, _ in parity.cosines:
        found[corpus.group_of(name)].append((cosine, name))
    return tuple(
        GroupCosine(
            group=group,
            texts=len({name for _, name in values}),
            cosine_min=min(cosine for cosine, _ in values),
            cosine_mean=math.fsum(cosine for cosine, _ in values) / len(values),
        )
        for group, values in found.items()
    )
