"""What engine and reference share and cannot show each other: card against files, ends of texts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from launcher.documents import plan as plan_types
from launcher.documents.plan import CardFacts
from launcher.documents.smoke import SmokeReport
from launcher.verify import texts
from launcher.verify.checks import was_made
from launcher.verify.reference import Outcome
from launcher.verify.smoke import run_smoke
from tests.verify.fakes import WIDTH, FakeEngine, reference, request, serving

END = "<|endoftext|>"


def card(**changes: Any) -> CardFacts:
    values: dict[str, Any] = {
        "name": "known",
        "file": "profiles/models/known.yaml",
        "pooling": "mean",
        "normalize": True,
        "dimensions": WIDTH,
    }
    return CardFacts(**{**values, **changes})


def known(appended: tuple[str, ...] | None, **changes: Any) -> Outcome:
    """The honest reference, whose tokenizer appends `appended`; every text has 5 tokens."""
    made = reference().reference
    assert made is not None
    counts = dict.fromkeys(texts.BY_NAME, 5)
    return Outcome(replace(made, tokens=counts, appended=appended, **changes), "cached")


def smoke(outcome: Outcome, tokens: int | None = 5, **changes: Any) -> SmokeReport:
    engine = FakeEngine(tokens=lambda _text: tokens)
    with serving(engine):
        return run_smoke(request(engine.url, **changes), key=None, outcome=outcome)


def failed(report: SmokeReport) -> set[str]:
    return {check.name for check in report.checks if not check.ok and was_made(check)}


def detail(report: SmokeReport, name: str) -> str:
    return next(check.detail for check in report.checks if check.name == name)


def test_the_plan_s_facts_and_the_smoke_s_are_the_same_fields() -> None:
    assert plan_types.CardFacts.__struct_fields__ == CardFacts.__struct_fields__


# --- the model card


def test_a_checkpoint_that_is_as_its_card_says_passes() -> None:
    report = smoke(known(("[SEP]",)), card=card())
    assert report.ok, report
    assert "known" in detail(report, "card")


def test_without_a_card_its_own_files_are_believed() -> None:
    report = smoke(known(("[SEP]",)))
    assert report.ok
    assert "no model card" in detail(report, "card")


@pytest.mark.parametrize(
    ("said", "suspect", "source"),
    [
        ({"pooling": "cls"}, "pooling", "model/1_Pooling/config.json"),
        ({"normalize": False}, "normalization", "model/modules.json lists Normalize"),
        ({"dimensions": WIDTH + 1}, "dimension", "model/config.json"),
    ],
)
def test_a_checkpoint_that_differs_from_its_card_is_caught(
    said: dict[str, Any], suspect: str, source: str
) -> None:
    """Parity is perfect here: engine and reference follow the same wrong file."""
    report = smoke(
        known(("[SEP]",)),
        card=card(**said),
        model_path="/models/model",
        normalize_source="modules.json lists Normalize",
    )
    assert failed(report) == {"card"}
    assert report.suspect == suspect
    for text in (detail(report, "card"), report.explanation or ""):
        assert "profiles/models/known.yaml" in text
        assert f"/models/{source}" in text
    assert "qlaunch model pull known" in (report.explanation or "")


def test_the_weightiest_difference_is_the_suspect() -> None:
    report = smoke(known(()), card=card(pooling="last", normalize=False))
    assert failed(report) == {"card"}
    assert report.suspect == "pooling"
    assert "not normalised" in detail(report, "card")


# --- the end of a text


def test_a_last_token_model_whose_tokenizer_ends_texts_passes() -> None:
    report = smoke(
        known((END,), declared_end=END), pooling="last", card=card(pooling="last", end_token=END)
    )
    assert report.ok, report
    assert END in detail(report, "tokens")
    # Four texts alone and the one after the overflow.
    assert "5 counts agree" in detail(report, "tokens")


@pytest.mark.parametrize(
    ("appended", "changes", "reason"),
    [
        ((), {"pooling": "last"}, "pools the last token"),
        ((), {"card": card(end_token=END)}, "must end with"),
        (("<|im_end|>",), {"card": card(end_token=END)}, "appends '<|im_end|>'"),
        ((END,), {"card": card(end_token="")}, "no token may end a text"),
    ],
)
def test_a_tokenizer_without_its_end_token_is_caught(
    appended: tuple[str, ...], changes: dict[str, Any], reason: str
) -> None:
    """Parity is perfect here: the reference cuts texts with the same tokenizer."""
    report = smoke(known(appended), **changes)
    assert failed(report) == {"tokens"}
    assert report.suspect == "end_token"
    assert reason in detail(report, "tokens")
    assert reason in (report.explanation or "")


def test_a_library_that_drops_the_declared_end_token_is_caught() -> None:
    report = smoke(known((), declared_end=END))
    assert failed(report) == {"tokens"}
    assert report.suspect == "end_token"


def test_a_card_that_says_there_is_none_is_believed() -> None:
    assert smoke(known(()), pooling="last", card=card(pooling="last", end_token="")).ok


def test_an_encoder_may_append_nothing() -> None:
    assert smoke(known(())).ok


def test_one_token_less_in_the_engine_is_the_end_token() -> None:
    report = smoke(known((END,)), tokens=4)
    assert failed(report) == {"tokens"}
    assert report.suspect == "end_token"
    assert "has 4 tokens in the engine, 5 in the reference" in detail(report, "tokens")


@pytest.mark.parametrize("tokens", [3, 6, 500])
def test_other_counts_are_the_tokenizer(tokens: int) -> None:
    report = smoke(known((END,)), tokens=tokens)
    assert failed(report) == {"tokens"}
    assert report.suspect == "tokenizer"


def test_a_server_that_counts_nothing_is_not_blamed() -> None:
    assert smoke(known((END,)), tokens=None).ok


def test_nothing_is_known_of_tokens_without_a_reference() -> None:
    report = smoke(Outcome(None, "unavailable: no Python"))
    assert failed(report) == {"parity"}
    assert detail(report, "tokens").startswith("not checked")
    assert smoke(Outcome(None, "unavailable: not asked for"), parity_min=0.0).ok


def test_facts_travel_in_the_request() -> None:
    asked = request(card=card(instruction="{query}"))
    assert msgspec.json.decode(msgspec.json.encode(asked), type=type(asked)) == asked
