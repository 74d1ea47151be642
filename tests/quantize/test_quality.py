"""Where a quantised checkpoint is good enough, and where not."""

from __future__ import annotations

import math

import msgspec
import pytest

from launcher.quantize import quality
from launcher.quantize.formats import FORMATS
from launcher.verify.instruction import Wording
from launcher.verify.quality import load_set

GOOD = quality.Measured(
    texts=2,
    cosine_worst=0.99,
    cosine_mean=0.995,
    worst_text="a",
    recall_at_10=0.8,
    recall_at_10_float32=0.81,
)


def test_a_good_one_is_kept_in_every_format() -> None:
    assert [quality.shortfalls(GOOD, each) for each in FORMATS.values()] == [[], [], []]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cosine_worst": 0.969}, "the worst cosine is 0.9690 (a), 0.97 is asked"),
        ({"cosine_mean": 0.98}, "the mean cosine is 0.9800, 0.985 is asked"),
        ({"recall_at_10": 0.78}, "recall@10 fell from 0.8100 to 0.7800, by more than 0.02"),
        ({"cosine_worst": math.nan}, "the worst cosine is nan (a), 0.97 is asked"),
    ],
)
def test_each_figure_can_refuse(change: dict[str, float], said: str) -> None:
    worse = msgspec.structs.replace(GOOD, **change)
    assert quality.shortfalls(worse, FORMATS["int8"]) == [said]


def test_published_figures_of_the_family_fall_on_the_right_side() -> None:
    """Qwen3-Embedding-0.6B, as others measured it: formats.FORMATS says where from."""
    smoothed = msgspec.structs.replace(GOOD, cosine_worst=0.987, cosine_mean=0.992)
    plain = msgspec.structs.replace(GOOD, cosine_worst=0.639, cosine_mean=0.846)
    blocks = msgspec.structs.replace(GOOD, cosine_worst=0.930, cosine_mean=0.945)
    assert quality.shortfalls(smoothed, FORMATS["int8"]) == []
    assert len(quality.shortfalls(plain, FORMATS["int8"])) == 2
    assert quality.shortfalls(blocks, FORMATS["int4"]) == []


def test_measuring_names_the_worst_text_and_counts_what_is_no_number_as_the_worst() -> None:
    asked = quality.texts(Wording())
    vectors = [[math.sin(n), math.cos(n), n % 7 + 1.0] for n in range(len(asked))]
    same = quality.measure(asked, vectors, vectors)
    assert same.texts == len(asked)
    assert same.cosine_worst == pytest.approx(1.0)
    assert same.recall_loss == 0
    broken = [*vectors]
    broken[3] = [0.0, 0.0, 0.0]
    found = quality.measure(asked, vectors, broken)
    assert found.cosine_worst == -1.0
    assert found.worst_text == asked[3].name


def test_queries_are_worded_as_the_model_wants_them() -> None:
    plain = {each.name: each.text for each in quality.texts(Wording())}
    asked = {each.name: each.text for each in quality.texts(Wording(query_prompt="Q: "))}
    changed = {name for name in plain if plain[name] != asked[name]}
    assert changed == {each.id for each in load_set().queries}
