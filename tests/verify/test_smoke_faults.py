"""Every planted fault fails its own check, with the right suspect, and never raises."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from launcher.documents.smoke import SmokeReport
from launcher.verify import texts
from launcher.verify.checks import was_made
from launcher.verify.reference import Outcome, Reference
from launcher.verify.smoke import run_smoke
from tests.patience import no_hang
from tests.verify.fakes import (
    WIDTH,
    Call,
    Entry,
    FakeEngine,
    Vector,
    reference,
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
    "alone_vs_batched",
    "repeatable",
    "related_closer",
    "overflow",
    "parity",
    "tokens",
    "card",
    "edges",
)
KEY = "sk-canary-7f3a9b"


def smoke(engine: FakeEngine, outcome: Outcome | None = None, **changes: Any) -> SmokeReport:
    with serving(engine):
        return run_smoke(request(engine.url, **changes), key=KEY, outcome=outcome or reference())


def failed(report: SmokeReport) -> set[str]:
    """Checks that found a fault; those that could not be made are not ok, but are not counted."""
    return {check.name for check in report.checks if not check.ok and was_made(check)}


def detail(report: SmokeReport, name: str) -> str:
    return next(check.detail for check in report.checks if check.name == name)


def at_first(position: int, change: Any) -> Any:
    """An edit of one entry of the first call."""

    def edit(call: Call, data: list[Entry]) -> list[Entry]:
        if call.number == 0:
            change(data[position])
        return data

    return edit


def test_right_vectors_pass_every_check_by_its_documented_name() -> None:
    engine = FakeEngine()
    report = smoke(engine)
    assert report.ok, report
    assert tuple(check.name for check in report.checks) == NAMES
    assert all(check.ok and check.detail for check in report.checks)
    assert report.suspect is None
    assert report.explanation is None
    assert report.worst_cosine == pytest.approx(1, abs=1e-6)
    assert report.sample == pytest.approx(vector_of(texts.TEXTS[0].text)[:5])
    assert report.latency_ms is not None
    assert 0 < report.latency_ms < 5000
    assert report.reference == "cached"


def test_the_calls_are_few_and_cover_overflow_and_both_formats() -> None:
    engine = FakeEngine()
    smoke(engine, max_running_requests=20)
    assert len(engine.calls) <= 16
    assert max(len(call.inputs) for call in engine.calls) == 28
    assert [call.encoding for call in engine.calls].count("base64") == 1
    assert all(call.key == f"Bearer {KEY}" for call in engine.calls)


def test_a_server_without_base64_is_as_good() -> None:
    assert smoke(FakeEngine(base64=False)).ok


def test_a_server_that_always_answers_base64_is_as_good() -> None:
    def pack(call: Call, data: list[Entry]) -> list[Entry]:
        call.encoding = "base64"
        return data

    assert smoke(FakeEngine(edit=pack)).ok


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, None, "0.5", True, 1e300])
def test_a_number_that_is_none_fails_finite_only(number: Any) -> None:
    def spoil(entry: Entry) -> None:
        entry["embedding"][3] = number

    report = smoke(FakeEngine(edit=at_first(4, spoil)))
    assert failed(report) == {"finite"}
    assert report.suspect == "dtype"
    assert texts.TEXTS[4].name in detail(report, "finite")


def test_a_server_that_refuses_to_answer_nan_is_no_server_that_refuses_calls() -> None:
    """Ours answers 422 to others than its supervisor; the smoke blamed the engine's flags."""
    said = {"message": "the vector of input[0] holds NaN", "code": "not_finite"}
    answer = json.dumps({"error": said}).encode()
    report = smoke(FakeEngine(raw=lambda _call: (422, "application/json", answer)))
    assert "finite" in failed(report)
    assert "the vector of input[0] holds NaN" in detail(report, "finite")
    assert report.suspect == "dtype"


def test_a_zero_vector_fails_finite_only() -> None:
    report = smoke(FakeEngine(edit=at_first(4, lambda e: e.update(embedding=[0.0] * WIDTH))))
    assert failed(report) == {"finite"}


def test_all_vectors_nan_leaves_nothing_to_compare_and_says_so() -> None:
    report = smoke(FakeEngine(vector=lambda _c, _t: [math.nan] * WIDTH, base64=False))
    # The client's own base64 call brings NaN as well; it is one fault, not two.
    assert failed(report) == {"finite"}
    assert detail(report, "parity").startswith("not checked")
    assert not report.ok
    assert report.suspect == "dtype"


def test_nan_from_the_checkpoint_itself_blames_the_weights() -> None:
    broken = {each.name: [math.nan] * WIDTH for each in texts.TEXTS}
    outcome = Outcome(Reference(broken, {}, ("mean",), {}), "computed")
    report = smoke(FakeEngine(vector=lambda _c, _t: [math.nan] * WIDTH, base64=False), outcome)
    assert report.suspect == "weights"
    assert "finite" in failed(report)
    assert "parity" in failed(report)


@pytest.mark.parametrize("width", [0, 1, WIDTH - 1, WIDTH + 1])
def test_a_wrong_width_fails_dimension_only(width: int) -> None:
    report = smoke(FakeEngine(vector=lambda _c, _t: [1.0] * width))
    assert failed(report) == {"dimension"}
    assert report.suspect == "dimension"
    assert str(width) in detail(report, "dimension")


def test_a_missing_dense_head_is_named_by_its_width() -> None:
    plain = reference().reference
    assert plain is not None
    wide = {name: [*vector, 0.5] for name, vector in plain.vectors.items()}
    outcome = Outcome(Reference(plain.vectors, {"no_dense": wide}, ("mean",), {}), "cached")
    report = smoke(FakeEngine(vector=lambda _c, t: [*vector_of(t), 0.5]), outcome)
    assert failed(report) == {"dimension"}
    assert report.suspect == "dense"


def test_an_embedding_that_is_null_fails_dimension() -> None:
    report = smoke(FakeEngine(edit=at_first(0, lambda entry: entry.update(embedding=None))))
    assert failed(report) == {"dimension"}


def test_one_vector_too_few_fails_count_only() -> None:
    report = smoke(FakeEngine(edit=lambda call, data: data[:-1] if call.number == 0 else data))
    assert failed(report) == {"count"}
    assert report.suspect == "order"


def test_no_vectors_at_all_fail_count() -> None:
    report = smoke(FakeEngine(edit=lambda call, data: [] if call.number == 0 else data))
    assert failed(report) == {"count"}


def test_one_vector_too_many_fails_count_only() -> None:
    report = smoke(FakeEngine(edit=lambda c, d: [*d, dict(d[0])] if c.number == 0 else d))
    assert failed(report) == {"count"}


@pytest.mark.parametrize("index", [1, 99, -1, None, "0", 1.0, True])
def test_a_wrong_index_fails_order_only(index: Any) -> None:
    report = smoke(FakeEngine(edit=at_first(0, lambda entry: entry.update(index=index))))
    assert failed(report) == {"order"}
    assert report.suspect == "order"


def test_an_absent_index_fails_order_only() -> None:
    report = smoke(FakeEngine(edit=at_first(2, lambda entry: entry.pop("index"))))
    assert failed(report) == {"order"}


def test_answers_out_of_order_fail_order_only() -> None:
    report = smoke(FakeEngine(edit=lambda call, data: data[::-1] if call.number == 0 else data))
    assert failed(report) == {"order"}


def test_swapped_vectors_under_right_indices_fail_order_only() -> None:
    def swap(call: Call, data: list[Entry]) -> list[Entry]:
        if call.number == 0:
            data[2]["embedding"], data[5]["embedding"] = data[5]["embedding"], data[2]["embedding"]
        return data

    report = smoke(FakeEngine(edit=swap))
    assert failed(report) == {"order"}
    assert report.suspect == "order"
    assert texts.TEXTS[2].name in detail(report, "order")
    assert texts.TEXTS[5].name in detail(report, "order")


def test_vectors_that_are_not_unit_fail_unit_norm_only() -> None:
    report = smoke(FakeEngine(vector=lambda _c, text: [3 * x for x in vector_of(text)]))
    assert failed(report) == {"unit_norm"}
    assert report.suspect == "normalization"


def test_unit_norm_is_skipped_for_a_model_that_does_not_normalise() -> None:
    engine = FakeEngine(vector=lambda _c, text: [3 * x for x in vector_of(text)])
    report = smoke(engine, normalize=False)
    assert report.ok
    assert detail(report, "unit_norm").startswith("skipped")


@pytest.mark.parametrize(("kind", "word"), [("cls", "CLS"), ("last", "last token")])
def test_another_pooling_fails_parity_and_is_named(kind: str, word: str) -> None:
    report = smoke(FakeEngine(vector=lambda _c, text: vector_of(text, kind)))
    assert failed(report) == {"parity"}
    assert report.suspect == "pooling"
    assert report.explanation is not None
    assert word in report.explanation
    assert "mean" in report.explanation
    assert report.worst_cosine is not None
    assert report.worst_cosine < 0.9
    assert report.worst_text in texts.BY_NAME


def test_a_missing_end_token_is_named() -> None:
    engine = FakeEngine(vector=lambda _c, text: vector_of(text, "last_but_one"))
    report = smoke(engine, reference(("cls", "last_but_one")))
    assert failed(report) == {"parity"}
    assert report.suspect == "end_token"


def test_a_missing_dense_head_of_equal_width_is_named() -> None:
    engine = FakeEngine(vector=lambda _c, text: vector_of(text, "no_dense"))
    assert smoke(engine, reference(("cls", "no_dense"))).suspect == "dense"


def test_other_weights_fail_parity_without_a_wrong_name() -> None:
    report = smoke(FakeEngine(vector=lambda _c, text: vector_of(text, "elsewhere")))
    assert failed(report) == {"parity"}
    assert report.suspect == "model"


def tilted(text: str, loss: float) -> Vector:
    """The right vector turned so that its cosine with itself is 1 - loss."""
    right, other = vector_of(text), vector_of(text, "elsewhere")
    along = sum(a * b for a, b in zip(right, other, strict=True))
    across = unit([b - along * a for a, b in zip(right, other, strict=True)])
    keep = 1 - loss
    return [keep * a + math.sqrt(1 - keep**2) * b for a, b in zip(right, across, strict=True)]


def test_a_small_loss_is_blamed_on_the_dtype() -> None:
    report = smoke(FakeEngine(vector=lambda _c, text: tilted(text, 0.004)))
    assert failed(report) == {"parity"}
    assert report.suspect == "dtype"
    assert report.worst_cosine == pytest.approx(0.996, abs=1e-4)


def test_rounding_that_bfloat16_may_have_is_too_much_for_float32() -> None:
    engine = FakeEngine(vector=lambda _c, text: tilted(text, 0.0005))
    assert smoke(engine).ok
    engine = FakeEngine(vector=lambda _c, text: tilted(text, 0.0005))
    report = smoke(engine, dtype="float32", parity_min=0.9999)
    assert failed(report) == {"parity"}


def test_some_texts_wrong_is_blamed_on_the_tokenizer() -> None:
    odd = {texts.BY_NAME["emoji"], texts.BY_NAME["arabic"]}
    engine = FakeEngine(vector=lambda _c, t: vector_of(t, "elsewhere" if t in odd else "mean"))
    report = smoke(engine)
    assert failed(report) == {"parity"}
    assert report.suspect == "tokenizer"
    assert report.explanation is not None
    assert "emoji" in report.explanation


def test_drift_on_the_second_ask_is_blamed_on_the_prefix_cache() -> None:
    seen: set[str] = set()

    def stale(call: Call, text: str) -> Vector:
        again = text in seen
        seen.add(text)
        return vector_of(text, f"stale {call.number}" if again else "mean")

    report = smoke(FakeEngine(vector=stale))
    assert failed(report) == {"repeatable", "alone_vs_batched", "parity"}
    assert report.suspect == "prefix_cache"


def test_wrong_at_once_and_drifting_is_blamed_on_the_prefix_cache_too() -> None:
    engine = FakeEngine(vector=lambda call, text: vector_of(text, f"stale {call.number}"))
    report = smoke(engine)
    assert {"repeatable", "parity"} <= failed(report)
    assert report.suspect == "prefix_cache"


def test_a_prefix_cache_that_holds_every_text_already_is_still_found() -> None:
    """A second smoke of one engine sees steady, wrong vectors; only the fresh text moves."""
    seen: set[str] = set()

    def steady(call: Call, text: str) -> Vector:
        known = text in seen or text in texts.BY_NAME.values()
        seen.add(text)
        return vector_of(text, "cached" if known else "half cached")

    report = smoke(FakeEngine(vector=steady))
    assert {"repeatable", "parity"} <= failed(report)
    assert report.suspect == "prefix_cache"


def test_drift_is_found_without_a_reference() -> None:
    engine = FakeEngine(vector=lambda call, text: vector_of(text, f"stale {call.number}"))
    report = smoke(engine, Outcome(None, "unavailable: no Python"), parity_min=0)
    assert {"repeatable", "alone_vs_batched"} <= failed(report)
    assert report.suspect == "prefix_cache"


def test_a_vector_that_depends_on_its_company_is_blamed_on_batching() -> None:
    def company(call: Call, text: str) -> Vector:
        return vector_of(text, "elsewhere" if len(call.inputs) == 1 else "mean")

    report = smoke(FakeEngine(vector=company))
    assert "alone_vs_batched" in failed(report)
    assert report.suspect == "batching"


def test_a_wrong_default_format_is_blamed_on_the_encoding() -> None:
    def wrong(call: Call, text: str) -> Vector:
        return vector_of(text, "elsewhere" if call.encoding == "base64" else "mean")

    report = smoke(FakeEngine(vector=wrong))
    assert "repeatable" in failed(report)
    assert report.suspect == "encoding"


def test_base64_that_the_client_cannot_read_is_blamed_on_the_encoding() -> None:
    def garble(call: Call, data: list[Entry]) -> list[Entry]:
        if call.encoding == "base64":
            call.encoding = "as it is"
            data[0]["embedding"] = "AAA"
        return data

    report = smoke(FakeEngine(edit=garble))
    assert failed(report) == {"repeatable"}
    assert report.suspect == "encoding"


def test_unrelated_texts_that_look_alike_fail_related_closer() -> None:
    swapped = {texts.BY_NAME["kitten"]: texts.BY_NAME["rates"]}
    swapped |= {new: old for old, new in swapped.items()}
    engine = FakeEngine(vector=lambda _c, text: vector_of(swapped.get(text, text)))
    report = smoke(engine, Outcome(None, "unavailable: no Python"), parity_min=0)
    assert failed(report) == {"related_closer"}
    assert "cat" in detail(report, "related_closer")


def test_random_weights_are_not_blamed_for_what_the_reference_cannot_do_either() -> None:
    def far(text: str) -> Vector:
        return unit([random_.gauss(0, 1) for _ in range(WIDTH)]) if text else []

    import random

    random_ = random.Random(3)
    vectors = {each.name: far(each.text) for each in texts.TEXTS}
    for anchor, near, away in texts.TRIPLES:
        vectors[near] = [-x for x in vectors[anchor]]
        assert vectors[away] != vectors[anchor]
    by_text = {each.text: vectors[each.name] for each in texts.TEXTS}
    outcome = Outcome(Reference(vectors, {}, ("mean",), {}), "cached")
    report = smoke(FakeEngine(vector=lambda _c, t: by_text.get(t) or vector_of(t)), outcome)
    assert report.ok
    assert "reference" in detail(report, "related_closer")


def test_two_texts_that_the_model_hardly_tells_apart_may_change_places_by_rounding() -> None:
    """MiniLM in int8 beside AMX: 0.646 and 0.655, where float32 has 0.658 and 0.649."""
    vectors = {each.name: vector_of(each.text) for each in texts.TEXTS}
    served = {name: list(vector) for name, vector in vectors.items()}
    anchor, near, far = texts.TRIPLES[0]
    vectors[far] = unit([x + 0.01 * y for x, y in zip(vectors[near], vectors[far], strict=True)])
    vectors[near] = unit(
        [x + 0.01 * y for x, y in zip(vectors[near], vectors[anchor], strict=True)]
    )
    served[near], served[far] = vectors[far], vectors[near]
    by_text = {each.text: served[each.name] for each in texts.TEXTS}
    outcome = Outcome(Reference(vectors, {}, ("mean",), {}), "cached")
    engine = FakeEngine(vector=lambda _c, t: by_text.get(t) or vector_of(t))
    report = smoke(engine, outcome, dtype="int8")
    assert "related_closer" not in failed(report)
    assert detail(report, "related_closer") == "2 of 2 triples"


def test_no_reference_fails_parity_with_the_reason() -> None:
    report = smoke(FakeEngine(), Outcome(None, "unavailable: no Python was given"))
    assert failed(report) == {"parity"}
    assert detail(report, "parity") == "no reference: no Python was given"
    assert report.suspect == "reference"
    assert report.worst_cosine is None


def test_parity_that_was_not_asked_for_is_skipped() -> None:
    report = smoke(FakeEngine(), Outcome(None, "unavailable: not asked for"), parity_min=0)
    assert report.ok
    assert detail(report, "parity").startswith("skipped")


def test_a_reference_of_another_width_fails_parity() -> None:
    short = {each.name: [1.0] for each in texts.TEXTS}
    report = smoke(FakeEngine(), Outcome(Reference(short, {}, ("mean",), {}), "cached"))
    assert failed(report) == {"parity"}
    assert "1 numbers" in detail(report, "parity")


def test_a_hang_after_a_full_batch_is_wedged() -> None:
    """SGLang issue 22518: the call with too many inputs is never answered."""
    engine = FakeEngine(hangs=lambda call: len(call.inputs) == 12)
    with no_hang():
        report = smoke(engine, timeout_s=1.5)
    assert failed(report) == {"overflow"}
    assert report.suspect == "wedged"
    assert report.latency_ms is None


def test_a_hang_on_the_call_after_a_full_batch_is_wedged() -> None:
    engine = FakeEngine()
    engine.hangs = lambda _call: any(len(each.inputs) == 12 for each in engine.calls[:-1])
    report = smoke(engine, timeout_s=1.5)
    assert failed(report) == {"overflow"}
    assert "after" in detail(report, "overflow")
    assert report.suspect == "wedged"


def test_a_hang_from_the_start_ends_in_time_and_checks_nothing_else() -> None:
    engine = FakeEngine(hangs=lambda _call: True)
    report = smoke(engine, timeout_s=0.3)
    assert failed(report) == {"count"}
    # The card is held against files, which need no server.
    assert [check.name for check in report.checks if check.ok] == ["card"]
    assert report.suspect == "wedged"
    assert len(engine.calls) == 1


def test_an_answer_that_drips_ends_in_time() -> None:
    """Each byte comes well within a read timeout; only a deadline ends this."""
    with no_hang():
        report = smoke(FakeEngine(drips=lambda _call: True), timeout_s=0.4)
    assert failed(report) == {"count"}
    assert report.suspect == "wedged"


def test_nobody_listening() -> None:
    report = run_smoke(request("http://127.0.0.1:9/v1"), key=None, outcome=reference())
    assert failed(report) == {"count"}
    assert report.suspect == "not_listening"
    assert "cannot reach" in detail(report, "count")


@pytest.mark.parametrize(
    ("status", "suspect"),
    [
        (500, "engine_error"),
        (503, "engine_error"),
        (400, "engine_flags"),
        (401, "api_key"),
        (403, "api_key"),
        (307, "engine_flags"),
    ],
)
def test_an_http_error_is_quoted_briefly_and_without_secrets(status: int, suspect: str) -> None:
    secret = texts.TEXTS[0].text
    body = f"broken\x1b[31m {KEY} {secret} {'x' * 100_000}".encode()
    report = smoke(FakeEngine(raw=lambda _call: (status, "text/plain", body)))
    assert failed(report) == {"count"}
    assert report.suspect == suspect
    quoted = detail(report, "count")
    assert f"HTTP {status}" in quoted
    assert "broken" in quoted
    assert len(quoted) < 400
    assert KEY not in quoted
    assert secret not in quoted
    assert "\x1b" not in quoted


@pytest.mark.parametrize(
    "body",
    [
        b"<html>hello</html>",
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"data": {}}',
        b'{"data": [',
        b"[" * 100_000,
        b"\xff\xfe\x00",
    ],
)
def test_what_is_no_embedding_response_fails_count(body: bytes) -> None:
    report = smoke(FakeEngine(raw=lambda _call: (200, "text/html", body)))
    assert failed(report) == {"count"}
    assert report.suspect == "endpoint"


@pytest.mark.parametrize("entry", [None, 7, "x", [], {}, {"index": 0}])
def test_strange_entries_never_raise(entry: Any) -> None:
    report = smoke(FakeEngine(edit=lambda _call, data: [entry for _ in data], base64=False))
    assert not report.ok
    assert failed(report) <= {"order", "dimension", "repeatable"}


def test_a_refused_large_call_fails_overflow_only() -> None:
    def refuse(call: Call) -> tuple[int, str, bytes] | None:
        return (413, "text/plain", b"too many") if len(call.inputs) == 12 else None

    report = smoke(FakeEngine(raw=refuse))
    assert failed(report) == {"overflow"}
    assert report.suspect == "batch_limit"
    assert report.latency_ms is not None


def test_a_later_call_that_fails_is_told_by_its_check() -> None:
    def flaky(call: Call) -> tuple[int, str, bytes] | None:
        return (500, "text/plain", b"oops") if call.number == 1 else None

    report = smoke(FakeEngine(raw=flaky))
    assert failed(report) == {"repeatable"}
    assert "oops" in detail(report, "repeatable")


def test_the_overflow_is_bounded_for_engines_that_run_very_many() -> None:
    engine = FakeEngine(vector=lambda _c, text: vector_of(text) if len(text) > 1 else [1.0])
    report = smoke(engine, max_running_requests=100_000, parity_min=0)
    assert max(len(call.inputs) for call in engine.calls) == 4096
    assert "100000" in detail(report, "overflow")


def test_proxies_in_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert smoke(FakeEngine()).ok


def test_a_redirect_does_not_carry_the_key_elsewhere() -> None:
    other = FakeEngine()
    with serving(other):
        engine = FakeEngine(raw=lambda _c: (307, "text/plain", b"moved"))
        engine.location = f"{other.url}/embeddings"
        report = smoke(engine)
    assert failed(report) == {"count"}
    assert other.calls == []


def test_texts_longer_than_the_context_are_left_out_and_counted() -> None:
    engine = FakeEngine(longest=63)
    report = smoke(engine, context_length=64)
    assert report.ok
    assert texts.BY_NAME["long"] not in engine.calls[0].inputs
    assert texts.BY_NAME["one_token"] in engine.calls[0].inputs
    assert "longer than 64 tokens" in detail(report, "count")


def test_the_reference_knows_which_texts_are_too_long() -> None:
    plain = reference().reference
    assert plain is not None
    counts = {name: 64 if name in ("cat", "zh_weather") else 3 for name in texts.BY_NAME}
    outcome = Outcome(Reference(plain.vectors, {}, ("mean",), {}, counts), "cached")
    engine = FakeEngine(longest=63)
    report = smoke(engine, outcome, context_length=64)
    assert report.ok
    sent = {text for call in engine.calls for text in call.inputs}
    assert texts.BY_NAME["cat"] not in sent
    assert texts.BY_NAME["zh_weather"] not in sent
    assert texts.BY_NAME["long"] in sent
