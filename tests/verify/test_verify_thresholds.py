"""Thresholds and texts: the figures other parts and the documentation rely on."""

from __future__ import annotations

import pytest

from launcher.verify import texts
from launcher.verify.thresholds import norm_tolerance, parity_min, same_min


@pytest.mark.parametrize(
    ("dtype", "least"),
    [("float32", 0.9999), ("bfloat16", 0.999), ("float16", 0.999), ("auto", 0.999)],
)
def test_parity_by_dtype(dtype: str, least: float) -> None:
    assert parity_min(dtype) == same_min(dtype) == least


def test_int8_may_be_farther_from_the_reference_and_not_from_itself() -> None:
    """Its scales are one a layer: a text's vector does not depend on its batch."""
    assert (parity_min("int8"), same_min("int8")) == (0.99, 0.999)


def test_a_norm_computed_and_divided_in_bfloat16_is_allowed() -> None:
    assert 2 * 2**-9 < norm_tolerance("bfloat16") <= 0.01
    assert 2**-24 < norm_tolerance("float32") <= 1e-4


def test_texts_are_named_once_and_every_name_used_exists() -> None:
    names = [each.name for each in texts.TEXTS]
    assert len(set(names)) == len(names) == len({each.text for each in texts.TEXTS})
    used = {*texts.AGAIN, *texts.ALONE, texts.DEFAULT_FORMAT, texts.AFTER}
    for triple in texts.TRIPLES:
        used |= set(triple)
    assert used <= {*names, texts.FRESH}
    assert texts.FRESH not in names


def test_texts_cover_what_embeddings_go_wrong_on() -> None:
    everything = "".join(each.text for each in texts.TEXTS)
    for low, high in (("\u4e00", "\u9fff"), ("\u0600", "\u06ff"), ("\u3040", "\u30ff")):
        assert any(low <= char <= high for char in everything)
    assert any(ord(char) > 0xFFFF for char in everything)
    assert any(each.text.startswith("importance") for each in texts.TEXTS)
    north, flood = texts.BY_NAME["prefix_north"], texts.BY_NAME["prefix_flood"]
    assert north[:40] == flood[:40]


def test_all_calls_together_stay_small_for_a_slow_cpu() -> None:
    # A token is at least about one Chinese character or three Latin letters.
    sizes = {
        each.name: sum(1 if ord(c) > 0x7F else 0.33 for c in each.text) for each in texts.TEXTS
    }
    total = sum(sizes.values()) + 2 * sum(sizes.get(name, 20) for name in texts.AGAIN)
    assert total < 800


def test_overflow_texts_are_as_many_as_asked_and_short() -> None:
    found = texts.overflow_texts(100)
    assert len(found) == 100
    assert all(len(each) == 1 for each in found)
