"""The largest input that is answered and the smallest that is refused: both are tried, exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from launcher.documents.smoke import Check
from launcher.verify.edges import Edges, ask_edges, edges
from launcher.verify.embedding_client import EmbeddingClient
from launcher.verify.smoke import run_smoke
from launcher.verify.timed_session import Session
from tests.verify.fakes import WIDTH, Call, FakeEngine, reference, request, serving, vector_of

MOST = 511
MARKS = 2


def words_and_marks(text: str) -> int:
    """The fake tokenizer's count; the characters that stand for token ids are one each."""
    return len(text) if set(text) == {chr(5)} else len(text.split()) + MARKS


def holding(
    most: int, status: int = 400, said: bytes = b'{"message":"The input is too long"}'
) -> Any:
    """Refuses what has more than `most` tokens."""

    def raw(call: Call) -> tuple[int, str, bytes] | None:
        too_long = any(words_and_marks(text) > most for text in call.inputs)
        return (status, "application/json", said) if too_long else None

    return raw


def engine(most: int = MOST, **changes: Any) -> FakeEngine:
    values = {"tokens": words_and_marks, "raw": holding(most), "longest": 10**6}
    return FakeEngine(**{**values, **changes})


def tried(served: FakeEngine, *, rate: float | None = None, **changes: Any) -> tuple[Edges, Check]:
    with serving(served):
        session = Session(EmbeddingClient(served.url, "fake", None), 60)
        session.rate = rate
        try:
            found = ask_edges(session, request(served.url, **changes), 1.0)
        finally:
            session.close()
    return found, edges(found)


def lengths_asked(served: FakeEngine) -> set[int]:
    return {words_and_marks(text) for call in served.calls for text in call.inputs}


def test_both_edges_by_ids_and_by_text() -> None:
    served = engine()
    _, check = tried(served)
    assert check == Check(
        name="edges", ok=True, detail="511 tokens answered, 512 refused, by text and by ids"
    )
    assert {MOST, MOST + 1} <= lengths_asked(served)
    assert max(lengths_asked(served)) == MOST + 1
    assert words_and_marks(served.calls[-1].inputs[0]) == 1 + MARKS  # it lives


def test_the_plan_knows_better_than_the_context() -> None:
    """A RoBERTa of 514 positions, served with a context of 513: 512 tokens, and no more."""
    served = engine(512)
    _, check = tried(served, context_length=513, longest_tokens=512)
    assert check.detail == "512 tokens answered, 513 refused, by text and by ids"
    # A fallback step has shortened the context since.
    assert request(context_length=300, longest_tokens=512).longest == 299


@pytest.mark.parametrize(
    ("served", "words"),
    [
        (engine(MOST + 1), "512 token ids are answered, but only 511 fit"),
        (engine(MOST - 1), "511 token ids are not answered: HTTP 400"),
        (engine(raw=holding(MOST, 500)), "512 token ids are not refused with a reason: HTTP 500"),
        (engine(raw=holding(MOST, 400, b"")), "512 token ids are not refused with a reason"),
    ],
)
def test_an_edge_elsewhere_is_a_fault(served: FakeEngine, words: str) -> None:
    _, check = tried(served)
    assert not check.ok
    assert check.detail.startswith(words)


def test_an_engine_that_ends_at_one_token_too_many_is_a_fault() -> None:
    """As the real one did: the connection drops, and nothing answers afterwards."""
    gone: list[bool] = []

    def hangs(call: Call) -> bool:
        gone.extend([True] * any(words_and_marks(text) > MOST for text in call.inputs))
        if gone:
            served.released.set()  # it hangs up without a word
        return bool(gone)

    served = engine(raw=lambda _call: None, hangs=hangs)
    found, check = tried(served)
    assert not check.ok
    assert "512 token ids are not refused with a reason" in check.detail
    assert not hasattr(found.alive, "items")


def test_only_ids_are_let_through() -> None:
    served = engine(raw=lambda call: None if chr(5) in call.inputs[0] else holding(MOST)(call))
    assert "512 token ids are answered" in tried(served)[1].detail


def test_only_texts_are_let_through() -> None:
    served = engine(raw=lambda call: holding(MOST)(call) if chr(5) in call.inputs[0] else None)
    assert "512 tokens of text are answered" in tried(served)[1].detail


@pytest.mark.parametrize("bad", [[math.nan] * WIDTH, [0.0] * WIDTH])
def test_a_vector_that_is_none_at_the_longest_length_is_a_fault(bad: list[float]) -> None:
    """Positions beyond the table that happen to be readable."""
    served = engine(
        vector=lambda _call, text: bad if words_and_marks(text) == MOST else vector_of(text)
    )
    assert "511 token ids are answered with an invalid vector" in tried(served)[1].detail


def test_longer_inputs_that_are_cut_on_purpose_are_not_asked() -> None:
    served = engine(10**6)
    _, check = tried(served, cuts_texts=True)
    assert check.ok
    assert "longer inputs are cut to fit" in check.detail
    assert max(lengths_asked(served)) == MOST


@pytest.mark.parametrize("tokens", [lambda _text: None, lambda text: 3 * len(text.split())])
def test_without_a_count_of_one_a_word_ids_are_tried_alone(
    tokens: Callable[[str], int | None],
) -> None:
    served = engine(tokens=tokens)
    found, check = tried(served)
    assert check.ok
    assert found.uncounted
    assert check.detail == "511 tokens answered, 512 refused, by ids"


def test_a_long_context_on_a_slow_engine_is_asked_at_the_refused_edge_only() -> None:
    served = engine(32767)
    _, check = tried(served, rate=260.0, context_length=32768)
    assert check.ok
    assert check.detail == (
        "32767 tokens not asked (at 260 tokens/s it takes 126 s), 32768 refused, by text and by ids"
    )
    assert lengths_asked(served) == {3, 4 + MARKS, 12 + MARKS, 32768}


def test_a_short_context_is_asked_whatever_the_rate() -> None:
    served = engine()
    tried(served, rate=1.0)
    assert MOST in lengths_asked(served)


def test_the_smoke_tries_them_and_names_the_suspect() -> None:
    served = engine(MOST + 1)
    with serving(served):
        report = run_smoke(request(served.url), key=None, outcome=reference())
    assert [check.name for check in report.checks if not check.ok] == ["edges"]
    assert report.suspect == "limits"
    assert "--context-length" in (report.explanation or "")
