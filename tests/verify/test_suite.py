"""The long suite: an honest engine passes, each planted fault fails its check with its suspect.

Those that need the real engine are in tests/engine_real/test_planted_faults.py: prefix cache on for
an encoder, a changed 1_Pooling under a known name, a tokenizer without its end token, weights with
NaN. (Plugin off is in tests/engine_real/test_planted_faults.py.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from launcher.documents.plan import CardFacts
from launcher.documents.smoke import SuiteReport, VerifyRequest
from launcher.verify import corpus, exact_lengths, suite, texts
from launcher.verify.checks import was_made
from launcher.verify.embedding_client import EmbeddingClient
from launcher.verify.reference import Outcome, Reference
from launcher.verify.texts import Text
from launcher.verify.timed_session import Session
from tests.verify.fakes import (
    WIDTH,
    Call,
    Entry,
    FakeEngine,
    Vector,
    ids_of,
    request,
    serving,
    unit,
    vector_of,
)

NAMES = (
    "count",
    "order",
    "dimension",
    "finite",
    "unit_norm",
    "parity",
    "tokens",
    "card",
    "alone_vs_batched",
    "repeatable",
    "any_order",
    "shared_prefix",
    "long_texts",
    "base64",
    "token_ids",
    "instruction",
    "dimensions",
    "empty",
    "too_long",
    "edges",
    "related_closer",
    "overflow",
)
CONTEXT = 400
CARD = CardFacts(
    name="known",
    file="known.yaml",
    pooling="mean",
    normalize=True,
    dimensions=WIDTH,
    instruction="Instruct: {task}\nQuery:{query}",
    matryoshka=True,
)


def tokens_of(text: str) -> int:
    """The fake tokenizer's count: words, and a mark before and after."""
    return len(text.split()) + 2


def bad_request(message: str) -> tuple[int, str, bytes]:
    return 400, "application/json", msgspec.json.encode({"object": "error", "message": message})


def polite(call: Call) -> tuple[int, str, bytes] | None:
    """What SGLang refuses, in its words."""
    if not all(text.strip() for text in call.inputs):
        return bad_request("Input cannot be empty or whitespace only")
    for text in call.inputs:
        if tokens_of(text) >= CONTEXT:
            said = f"The input ({tokens_of(text)} tokens) is longer than the model's context length"
            return bad_request(f"{said} ({CONTEXT} tokens).")
    return None


def engine(**changes: Any) -> FakeEngine:
    return FakeEngine(**{"raw": polite, "tokens": tokens_of, "longest": CONTEXT - 1, **changes})


def honest(_request: VerifyRequest, asked: Sequence[Text]) -> Outcome:
    """The reference an honest engine agrees with, for whatever texts are asked."""

    def all_of(kind: str) -> dict[str, Vector]:
        return {each.name: vector_of(each.text, kind) for each in asked}

    found = Reference(
        all_of("mean"),
        {kind: all_of(kind) for kind in ("cls", "last", "max")},
        ("mean",),
        {},
        {each.name: tokens_of(each.text) for each in asked},
        {each.name: ids_of(each.text) for each in asked},
        ("[SEP]",),
    )
    return Outcome(found, "cached")


@pytest.fixture
def verify(monkeypatch: pytest.MonkeyPatch) -> Callable[..., SuiteReport]:
    monkeypatch.setattr(suite, "obtain", honest)

    def run(served: FakeEngine, *, seconds: float = 3600.0, **changes: Any) -> SuiteReport:
        # An hour: on a busy machine a usual budget leaves checks out, which is not what most ask.
        values: dict[str, Any] = {"context_length": CONTEXT, "card": CARD, **changes}
        with serving(served):
            return suite.run_suite(request(served.url, **values), key=None, seconds=seconds)

    return run


def failed(report: SuiteReport) -> set[str]:
    return {check.name for check in report.checks if not check.ok and was_made(check)}


def detail(report: SuiteReport, name: str) -> str:
    return next(check.detail for check in report.checks if check.name == name)


Verify = Callable[..., SuiteReport]


def test_right_vectors_pass_every_check(verify: Verify) -> None:
    served = engine()
    report = verify(served)
    assert report.ok, report
    assert tuple(check.name for check in report.checks) == NAMES
    assert not any("left out" in check.detail for check in report.checks)
    assert report.left_out == ()
    assert report.worst_cosine == pytest.approx(1, abs=1e-6)
    assert report.longest_tokens == CONTEXT - 1
    assert report.texts > len(corpus.CORPUS)
    assert report.tokens is not None
    assert report.tokens_per_s is not None
    groups = {group.group: group for group in report.groups}
    assert groups["languages"].texts == len(corpus.LANGUAGES) >= 20
    assert groups["instructed"].texts == len(corpus.QUERIES)
    assert groups["long"].texts == 1
    assert {"smoke", "prefix", "query", "code", "odd"} <= groups.keys()


def test_each_way_to_ask_is_really_asked(verify: Verify) -> None:
    served = engine()
    verify(served)
    batches = [tuple(call.inputs) for call in served.calls if len(call.inputs) >= 40]
    assert len(batches) == len(set(batches)) + 1 == 4  # twice the same, and two other orders
    assert all(set(batch) <= set(batches[0]) for batch in batches)  # one more: a fresh text
    assert {call.encoding for call in served.calls} == {"float", "base64"}
    assert any(call.dimensions == WIDTH // 2 for call in served.calls)
    assert max(tokens_of(text) for call in served.calls for text in call.inputs) > CONTEXT
    assert any("Instruct: Given a web search" in call.inputs[0] for call in served.calls)
    assert any(len(call.inputs) == 4 + 8 for call in served.calls)


def test_a_model_without_a_card_and_without_matryoshka_passes(verify: Verify) -> None:
    def refuse(call: Call) -> tuple[int, str, bytes] | None:
        if call.dimensions is not None:
            return bad_request("Model 'x' does not support matryoshka representation")
        return polite(call)

    report = verify(engine(raw=refuse), card=None)
    assert report.ok, report
    assert "does not support matryoshka" in detail(report, "dimensions")
    assert "no model card" in detail(report, "instruction")


# --- planted faults -------------------------------------------------------------------------------


def test_another_pooling_is_named(verify: Verify) -> None:
    """As with the plugin off: the engine pools every encoder by its first token."""
    report = verify(engine(vector=lambda _call, text: vector_of(text, "cls")))
    assert "parity" in failed(report)
    assert report.suspect == "pooling"
    assert report.worst_text is not None


def test_a_prefix_cache_that_harms_is_named(verify: Verify) -> None:
    """As with the cache on for an encoder: what was seen before changes what comes now."""
    seen: set[str] = set()

    def stale(call: Call, text: str) -> Vector:
        again = text in seen
        seen.add(text)
        return vector_of(text, f"stale {call.number}" if again else "mean")

    report = verify(engine(vector=stale))
    assert {"repeatable", "any_order", "shared_prefix"} <= failed(report)
    assert report.suspect == "prefix_cache"


def test_only_shared_prefixes_going_wrong_is_found(verify: Verify) -> None:
    common = corpus.PREFIXED["prefix_fees"][:100]

    def stale(call: Call, text: str) -> Vector:
        alone = text.startswith(common) and len(call.inputs) == 1
        return vector_of(text, "elsewhere" if alone else "mean")

    report = verify(engine(vector=stale))
    assert failed(report) == {"shared_prefix", "parity"}
    assert report.suspect == "batching"


def test_a_checkpoint_that_differs_from_its_card_is_named(verify: Verify) -> None:
    report = verify(engine(), card=msgspec.structs.replace(CARD, pooling="cls"))
    assert failed(report) == {"card"}
    assert report.suspect == "pooling"


def test_a_missing_end_token_is_named(verify: Verify) -> None:
    report = verify(engine(), card=msgspec.structs.replace(CARD, end_token="<end>"))
    assert failed(report) == {"tokens"}
    assert report.suspect == "end_token"


def test_nan_is_named(verify: Verify) -> None:
    odd = corpus.ODD["numbers"]

    def edit(call: Call, data: list[Entry]) -> list[Entry]:
        for text, entry in zip(call.inputs, data, strict=True):
            if text == odd:
                entry["embedding"][0] = math.nan
        return data

    report = verify(engine(edit=edit))
    assert failed(report) == {"finite"}
    assert report.suspect == "dtype"
    assert "numbers" in detail(report, "finite")


def test_swapped_order_is_named(verify: Verify) -> None:
    def swap(call: Call, data: list[Entry]) -> list[Entry]:
        if len(data) > 80:
            first, last = data[0], data[-2]
            first["embedding"], last["embedding"] = last["embedding"], first["embedding"]
        return data

    report = verify(engine(edit=swap))
    assert failed(report) == {"order"}
    assert report.suspect == "order"


def test_a_wrong_dimension_is_named(verify: Verify) -> None:
    report = verify(engine(vector=lambda _c, text: vector_of(text)[:-1]))
    assert "dimension" in failed(report)
    assert report.suspect == "dimension"


def test_an_order_that_changes_vectors_is_named(verify: Verify) -> None:
    def company(call: Call, text: str) -> Vector:
        first = call.inputs[0] == texts.TEXTS[0].text
        return vector_of(text, "mean" if first or len(call.inputs) < 20 else "elsewhere")

    report = verify(engine(vector=company))
    assert {"any_order", "parity"} <= failed(report)
    assert report.suspect == "batching"


def test_one_script_cut_into_other_tokens_is_named(verify: Verify) -> None:
    thai = corpus.LANGUAGES["th"]
    report = verify(engine(vector=lambda _c, t: vector_of(t, "x" if t == thai else "mean")))
    assert failed(report) == {"parity"}
    assert report.suspect == "tokenizer"
    assert report.worst_text == "lang_th"
    worst = {group.group: group.cosine_min for group in report.groups}
    assert worst["languages"] < 0.99 < worst["code"]


def test_token_ids_read_otherwise_are_named(verify: Verify) -> None:
    class Adds(FakeEngine):
        def spelled(self, given: str | list[int]) -> str:
            return given if isinstance(given, str) else super().spelled(given) + "!"

    report = verify(Adds(raw=polite, tokens=tokens_of, longest=CONTEXT - 1))
    assert {"token_ids"} <= failed(report) <= {"token_ids", "parity"}
    assert report.suspect in ("tokenizer", "batching")


def test_token_ids_refused_are_named(verify: Verify) -> None:
    class NoIds(FakeEngine):
        def spelled(self, given: str | list[int]) -> str:
            return given if isinstance(given, str) else " "

    report = verify(NoIds(raw=polite, tokens=tokens_of, longest=CONTEXT - 1))
    assert failed(report) == {"token_ids", "edges"}
    assert report.suspect == "tokenizer"


def test_base64_with_other_numbers_is_named(verify: Verify) -> None:
    def swapped(call: Call, data: list[Entry]) -> list[Entry]:
        if call.encoding == "base64":
            for entry in data:
                entry["embedding"] = entry["embedding"][::-1]
        return data

    report = verify(engine(edit=swapped))
    assert failed(report) == {"base64", "parity"}
    assert report.suspect == "encoding"


def test_an_instruction_that_does_not_arrive_is_named(verify: Verify) -> None:
    def deaf(_call: Call, text: str) -> Vector:
        return vector_of(text.rpartition("Query:")[2])

    report = verify(engine(vector=deaf))
    assert failed(report) == {"instruction", "parity"}
    assert "does not arrive" in detail(report, "instruction")


# --- cut vectors ----------------------------------------------------------------------------------


def test_dimensions_refused_although_the_card_says_so(verify: Verify) -> None:
    def refuse(call: Call) -> tuple[int, str, bytes] | None:
        if call.dimensions is not None:
            return bad_request("Model 'x' does not support matryoshka representation")
        return polite(call)

    report = verify(engine(raw=refuse))
    assert failed(report) == {"dimensions"}
    assert report.suspect == "dimensions"
    assert "is_matryoshka" in (report.explanation or "")


class _Cuts(FakeEngine):
    """Cuts after normalising, or not at all."""

    def cut(self, call: Call, text: str) -> Vector:
        return self.vector(call, text)[: call.dimensions]


class _Ignores(FakeEngine):
    def cut(self, call: Call, text: str) -> Vector:
        return self.vector(call, text)


class _Invents(FakeEngine):
    def cut(self, call: Call, text: str) -> Vector:
        if call.dimensions is None:
            return self.vector(call, text)
        return unit(vector_of(text, "x")[: call.dimensions])


@pytest.mark.parametrize(
    ("kind", "word"), [(_Cuts, "length"), (_Ignores, "16 came"), (_Invents, "cosine")]
)
def test_wrongly_cut_vectors_fail_dimensions(
    kind: type[FakeEngine], word: str, verify: Verify
) -> None:
    served = kind(raw=polite, tokens=tokens_of, longest=CONTEXT - 1)
    report = verify(served)
    assert failed(report) == {"dimensions"}
    assert word in detail(report, "dimensions")


def test_ignored_dimensions_are_told_where_nobody_claims_them(verify: Verify) -> None:
    report = verify(_Ignores(raw=polite, tokens=tokens_of, longest=CONTEXT - 1), card=None)
    assert report.ok
    assert "16 came" in detail(report, "dimensions")


# --- the edges of the API -------------------------------------------------------------------------


def without(check: str) -> Callable[[Call], tuple[int, str, bytes] | None]:
    """`polite`, but answering 500 or nothing clear in one case."""

    def raw(call: Call) -> tuple[int, str, bytes] | None:
        found = polite(call)
        if found is None:
            return None
        empty = not all(text.strip() for text in call.inputs)
        return (500, "text/plain", b"boom") if empty == (check == "empty") else found

    return raw


@pytest.mark.parametrize("check", ["empty", "too_long"])
def test_a_crash_where_a_refusal_belongs(check: str, verify: Verify) -> None:
    report = verify(engine(raw=without(check)), context_length=CONTEXT)
    assert failed(report) == {check} | ({"edges"} if check == "too_long" else set())
    assert report.suspect == "limits"
    assert "HTTP 500" in detail(report, check)


def test_a_refusal_without_a_word_is_not_clear(verify: Verify) -> None:
    def silent(call: Call) -> tuple[int, str, bytes] | None:
        return None if polite(call) is None else (400, "text/plain", b"")

    assert failed(verify(engine(raw=silent))) == {"empty", "too_long", "edges"}


@pytest.mark.parametrize(("counted", "ok"), [(CONTEXT, True), (CONTEXT + 1, False), (None, False)])
def test_an_over_long_text_that_is_answered(counted: int | None, ok: bool, verify: Verify) -> None:
    """Cut and said so is honest; more tokens than positions, or no word of it, is not."""

    def raw(call: Call) -> tuple[int, str, bytes] | None:
        return None if max(map(tokens_of, call.inputs)) > CONTEXT else polite(call)

    def tokens(text: str) -> int | None:
        return tokens_of(text) if tokens_of(text) < CONTEXT else counted

    report = verify(engine(raw=raw, tokens=tokens))
    assert failed(report) == (set() if ok else {"too_long"})


@pytest.mark.parametrize(("vector", "ok"), [(vector_of(""), True), ([0.0] * WIDTH, False)])
def test_an_empty_text_that_is_answered(vector: Vector, ok: bool, verify: Verify) -> None:
    def raw(call: Call) -> tuple[int, str, bytes] | None:
        return polite(call) if all(text.strip() for text in call.inputs) else None

    served = engine(raw=raw, vector=lambda _c, t: vector_of(t) if t.strip() else vector)
    assert failed(verify(served)) == (set() if ok else {"empty"})


# --- time, and servers that do not answer ---------------------------------------------------------


def test_a_slow_engine_is_asked_less_and_told_what_was_left_out(
    verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(self: Session, _sample: Sequence[Text]) -> None:
        self.rate = 260.0

    monkeypatch.setattr(Session, "measure", measure)
    served = engine()
    report = verify(served, seconds=4.0, context_length=CONTEXT)
    assert report.ok, report
    left = " / ".join(report.left_out)
    assert "of 82 texts" in left
    assert "texts of 65 to 399 tokens: at 260 tokens/s" in left
    assert report.longest_tokens == 64
    first = next(call for call in served.calls if texts.TEXTS[0].text in call.inputs)
    assert {each.text for each in texts.TEXTS} <= set(first.inputs)
    assert sum(map(tokens_of, first.inputs)) < 700


def test_when_the_time_is_up_only_what_must_be_is_asked(verify: Verify) -> None:
    """The first call, and the one that shows that the engine survives more than it runs at once."""
    report = verify(engine(), seconds=1e-6)
    assert report.ok, report
    assert any("'again': the time was up" in each for each in report.left_out)
    assert "left out" in detail(report, "repeatable")
    assert "12 inputs against 4 at once" in detail(report, "overflow")
    assert report.worst_cosine == pytest.approx(1, abs=1e-6)


def test_a_server_that_counts_no_tokens_is_verified_all_the_same(verify: Verify) -> None:
    report = verify(engine(tokens=lambda _text: None))
    assert report.ok, report
    assert report.tokens is None
    assert report.tokens_per_s is None
    assert report.longest_tokens is None
    assert any("does not count tokens" in each for each in report.left_out)
    assert "left out" in detail(report, "long_texts")


def test_nobody_listening_is_one_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_args: object) -> Outcome:
        raise AssertionError("no reference is needed for a server that is not there")

    monkeypatch.setattr(suite, "obtain", never)
    report = suite.run_suite(request("http://127.0.0.1:9/v1"), key=None)
    assert failed(report) == {"count"}
    assert report.suspect == "not_listening"
    assert report.tokens_per_s is None


def test_a_hang_in_the_middle_ends_the_suite(
    verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.verify.timed_session.CALL_LIMIT_S", 0.2)
    monkeypatch.setattr("launcher.verify.timed_session.PATIENCE", 0.0)
    report = verify(engine(hangs=lambda call: call.number >= 20))
    assert not report.ok
    assert report.suspect == "wedged"


def test_a_context_shorter_than_the_texts_leaves_them_out(verify: Verify) -> None:
    def raw(call: Call) -> tuple[int, str, bytes] | None:
        too_long = any(tokens_of(text) >= 40 for text in call.inputs)
        return bad_request("The input is longer than the context length") if too_long else None

    report = verify(engine(raw=raw, longest=39), context_length=40, card=None)
    # The fake tokenizer's ids are characters, of which there are more than words.
    assert failed(report) <= {"empty", "token_ids"}
    assert "longer than 40 tokens were not sent" in detail(report, "count")


# --- texts of an exact length ---------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [12, 128, 399, 2048])
def test_texts_have_exactly_the_length_asked(tokens: int) -> None:
    served = FakeEngine(tokens=tokens_of)
    with serving(served):
        session = Session(EmbeddingClient(served.url, "fake", None), 60)
        ruler = exact_lengths.make_ruler(session)
        assert ruler is not None
        made = exact_lengths.exact(session, ruler, tokens)
        session.close()
    assert made is not None
    assert tokens_of(made.text) == tokens
    assert made.name == f"long:{tokens}"


def test_a_text_beyond_the_context_is_beyond_it_in_words_alone() -> None:
    for context in (1, 64, 512, 8192):
        assert len(exact_lengths.beyond(context).split()) > context


def test_a_tokenizer_that_never_counts_the_same_gives_up() -> None:
    counts = iter(range(100, 10_000, 7))
    served = FakeEngine(tokens=lambda _text: next(counts))
    with serving(served):
        session = Session(EmbeddingClient(served.url, "fake", None), 60)
        assert exact_lengths.make_long(session, 512) == ()
        session.close()
    assert session.left_out
    assert len(served.calls) < 20


# --- the corpus -----------------------------------------------------------------------------------


def test_the_corpus_covers_what_it_says() -> None:
    assert len(corpus.LANGUAGES) >= 20
    assert len(corpus.CODE) >= 5
    names = [each.name for each in corpus.CORPUS]
    assert len(set(names)) == len(names) == len({each.text for each in corpus.CORPUS})
    assert {each.name for each in texts.TEXTS} <= set(names)
    assert {*corpus.ALONE, *corpus.IDS} <= set(names)
    assert all(corpus.group_of(name) for name in names)
    assert corpus.group_of("long:511") == "long"
    starts = {text[:300] for text in corpus.PREFIXED.values()}
    assert len(starts) == 1
    right_to_left = [c for t in corpus.LANGUAGES.values() for c in t if "\u0590" <= c <= "\u06ff"]
    assert len(right_to_left) > 50


def test_the_instruction_is_text_not_a_template_of_its_own() -> None:
    asked = request(card=CARD)
    made = {each.name: each.text for each in suite.instructed(asked)}
    braces = made["instructed:query_braces"]
    assert braces.endswith("Query:what does {query} mean in a {task} template")
    assert suite.instructed(request()) == ()
