"""Retrieval as a number: the set itself, recall by hand, and what a served fault does to it."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from launcher.documents.plan import CardFacts
from launcher.documents.smoke import QualityReport
from launcher.verify import quality
from launcher.verify.quality import Document, Query, RetrievalSet, load_set, recall, texts_of
from launcher.verify.reference import Outcome, Reference
from launcher.verify.texts import Text
from tests.verify.fakes import WIDTH, Call, Entry, FakeEngine, Vector, request, serving, unit

CARD = CardFacts(
    name="known",
    file="known.yaml",
    pooling="mean",
    normalize=True,
    dimensions=WIDTH,
    instruction="Find: {query}",
)


def topical(name: str, text: str) -> Vector:
    """A vector near its topic's, which the id names (`tea-3`), and a little its own."""
    topic = random.Random(name.partition("-")[0])
    own = random.Random(text)
    return unit([topic.gauss(0, 1) + 0.4 * own.gauss(0, 1) for _ in range(WIDTH)])


NAMES = {each.text: each.name for each in texts_of(load_set(), request())}


def served(_call: Call, text: str) -> Vector:
    plain = text.removeprefix("Find: ")
    return topical(NAMES[plain], text)


def honest(asked: Sequence[Text]) -> Outcome:
    return Outcome(
        Reference({each.name: topical(each.name, each.text) for each in asked}, {}, ("mean",), {}),
        "cached",
    )


def measure(engine: FakeEngine, outcome: Outcome | None = None, **changes: Any) -> QualityReport:
    with serving(engine):
        asked = request(engine.url, **changes)
        texts = texts_of(load_set(), asked)
        return quality.measure_quality(asked, key=None, outcome=outcome or honest(texts))


# --- the set --------------------------------------------------------------------------------------


def test_the_set_holds_together() -> None:
    found = load_set()
    asked = texts_of(found, request())
    assert len({each.name for each in asked}) == len({each.text for each in asked}) == len(asked)
    assert 60 <= len(found.documents) <= 120
    assert len(found.queries) == 40
    known = {each.id for each in found.documents}
    for query in found.queries:
        assert query.relevant
        assert len(set(query.relevant)) == len(query.relevant) <= quality.PLACES
        assert set(query.relevant) <= known
    assert found.license == "Apache-2.0"


def test_the_set_can_tell_good_from_bad() -> None:
    """Most queries have as many relevant documents as places: chance finds a tenth of them."""
    found = load_set()
    broad = [query for query in found.queries if len(query.relevant) == quality.PLACES]
    assert len(broad) >= 20
    noise = random.Random(3)
    chance = {name: [noise.gauss(0, 1) for _ in range(WIDTH)] for name in NAMES.values()}
    assert recall(found, chance) < 0.25


def test_the_set_has_two_languages_in_every_topic() -> None:
    found = load_set()
    chinese = Counter(
        each.id.partition("-")[0]
        for each in found.documents
        if any("\u4e00" <= char <= "\u9fff" for char in each.text)
    )
    topics = {each.id.partition("-")[0] for each in found.documents}
    assert set(chinese) == topics
    assert len(topics) == 10


# --- recall by hand -------------------------------------------------------------------------------


def small(count: int) -> RetrievalSet:
    documents = tuple(Document(f"d{at}", f"text {at}") for at in range(count))
    return RetrievalSet("", "", documents, (Query("q", "?", ("d0", "d11")),))


def turned(degrees: float) -> Vector:
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


def test_recall_counts_relevant_documents_among_the_first_ten() -> None:
    vectors = {"q": turned(0)} | {f"d{at}": turned(at) for at in range(12)}
    assert recall(small(12), vectors) == 0.5  # d0 is first, d11 the twelfth
    vectors["d11"] = turned(0.5)
    assert recall(small(12), vectors) == 1.0
    vectors |= {"d0": turned(40), "d11": turned(50)}
    assert recall(small(12), vectors) == 0.0


def test_recall_looks_at_directions_only() -> None:
    vectors = {"q": turned(0)} | {f"d{at}": [9.0 * x for x in turned(at)] for at in range(12)}
    vectors["d11"] = [0.01 * x for x in turned(0.5)]
    assert recall(small(12), vectors) == 1.0


# --- measured -------------------------------------------------------------------------------------


def test_an_honest_engine_loses_nothing() -> None:
    report = measure(FakeEngine(vector=served))
    assert report.recall_at_10 == report.reference_recall_at_10
    assert report.recall_at_10 is not None
    assert report.recall_at_10 > 0.8
    assert report.recall_difference == 0
    assert report.cosine_mean == pytest.approx(1)
    assert report.cosine_min == pytest.approx(1)
    assert (report.documents, report.queries) == (100, 40)
    assert (report.reference, report.reason, report.instructed) == ("cached", None, False)


def test_queries_carry_the_instruction_and_documents_do_not() -> None:
    engine = FakeEngine(vector=served)
    report = measure(engine, card=CARD)
    assert report.instructed
    asked = [text for call in engine.calls for text in call.inputs]
    assert sum(text.startswith("Find: ") for text in asked) == 40
    assert report.recall_difference == 0


def test_noise_costs_recall_and_cosine() -> None:
    def noisy(_call: Call, text: str) -> Vector:
        noise = random.Random(f"noise {text}")
        right = topical(NAMES[text], text)
        return unit([x + 0.5 * noise.gauss(0, 1) for x in right])

    report = measure(FakeEngine(vector=noisy))
    assert report.recall_difference is not None
    assert report.recall_difference < -0.1
    assert report.cosine_mean is not None
    assert report.cosine_min is not None
    assert report.cosine_min < report.cosine_mean < 0.9


def test_answers_in_any_order_are_matched_by_index() -> None:
    def backwards(_call: Call, data: list[Entry]) -> list[Entry]:
        return data[::-1]

    assert measure(FakeEngine(vector=served, edit=backwards)).recall_difference == 0


def test_without_a_reference_the_served_figure_stands_alone() -> None:
    report = measure(FakeEngine(vector=served), Outcome(None, "unavailable: no Python"))
    assert report.recall_at_10 is not None
    assert report.reference_recall_at_10 is None
    assert report.recall_difference is None
    assert report.cosine_mean is None
    assert report.reason == "no Python"


def test_a_reference_of_another_width_is_no_reference() -> None:
    asked = texts_of(load_set(), request())
    made = honest(asked).reference
    assert made is not None
    narrow = {name: vector[:-1] for name, vector in made.vectors.items()}
    report = measure(FakeEngine(vector=served), Outcome(replace(made, vectors=narrow), "cached"))
    assert report.reference_recall_at_10 is None
    assert "another width" in (report.reason or "")


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        (FakeEngine(raw=lambda _c: (500, "text/plain", b"boom")), "HTTP 500: boom"),
        (FakeEngine(vector=served, edit=lambda _c, data: data[1:]), "one vector for each text"),
        (FakeEngine(vector=lambda _c, _t: [0.0] * WIDTH), "vectors are invalid"),
        (FakeEngine(vector=lambda _c, _t: [math.nan] * WIDTH, base64=False), "vectors are invalid"),
        (FakeEngine(vector=lambda _c, _t: [1.0]), "vectors are invalid"),
    ],
)
def test_an_engine_that_fails_has_no_figure_and_a_reason(engine: FakeEngine, reason: str) -> None:
    report = measure(engine)
    assert report.recall_at_10 is None
    assert report.recall_difference is None
    assert reason in (report.reason or "")
