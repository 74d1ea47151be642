"""Whatever JSON comes: what passes the guard is an embedding request within the limits."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.guarding import Service, limits

LIMITS = limits()
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-2, 102)
    | st.floats()
    | st.text(max_size=20)
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=40,
)
IDS = st.lists(st.integers(-1, 101), max_size=12)
INPUTS = (
    ANYTHING
    | st.text()
    | st.lists(st.text(max_size=5), max_size=10)
    | IDS
    | st.lists(IDS, max_size=10)
    | st.lists(SCALARS, max_size=5)
)
FIELDS = ("model", "encoding_format", "dimensions", "user", "rid", "priority", "lora_path")
DOCUMENTS = ANYTHING | st.fixed_dictionaries(
    {"input": INPUTS},
    optional={
        "model": st.sampled_from(["tiny", "other"]) | SCALARS,
        "encoding_format": st.sampled_from(["float", "base64"]) | SCALARS,
        "dimensions": st.integers(-1, 6) | SCALARS,
        **dict.fromkeys(FIELDS[3:], SCALARS),
    },
)
SERVICE = Service()


def tried(raw: bytes) -> None:
    said = SERVICE.embed(raw)
    if said.status == 200:
        valid(json.loads(said.given))
    else:
        assert said.status in (400, 404, 413), said.status
        assert said.passed is None
        assert said.error["message"]
    guard = SERVICE.guard
    assert guard.calls == guard.bytes == guard.inputs == guard.tokens == 0


def valid(passed: dict[str, Any]) -> None:
    """What SGLang may be given, said without the guard's own words."""
    assert passed.keys() <= {"model", "input", "encoding_format"}
    assert passed["model"] == LIMITS.model
    assert passed.get("encoding_format", "float") in ("float", "base64")
    given = passed["input"]
    texts = given if isinstance(given, list) and isinstance(given[0], str) else [given]
    if all(isinstance(each, str) for each in texts):
        assert all(each.strip() and len(each.encode()) <= LIMITS.text_bytes for each in texts)
        assert len(texts) <= LIMITS.inputs
        return
    batch = given if isinstance(given[0], list) else [given]
    assert 1 <= len(batch) <= LIMITS.inputs
    assert sum(map(len, batch)) <= LIMITS.call_tokens
    for ids in batch:
        assert 1 <= len(ids) <= LIMITS.text_tokens
        assert all(type(each) is int and 0 <= each < LIMITS.vocabulary for each in ids)


@given(DOCUMENTS)
@settings(max_examples=400, deadline=None)
def test_any_document(document: object) -> None:
    tried(json.dumps(document).encode())


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode()))
@settings(max_examples=200, deadline=None)
def test_any_bytes(raw: bytes) -> None:
    tried(raw)


@given(DOCUMENTS, st.integers(0, 400), st.binary(max_size=3))
@settings(max_examples=200, deadline=None)
def test_any_document_with_a_hole_in_it(document: object, at: int, more: bytes) -> None:
    raw = json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")
    tried(raw[:at] + more + raw[at + 1 :])
