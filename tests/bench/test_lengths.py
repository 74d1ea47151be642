"""Mixed lengths: as they are asked for, drawn and counted."""

from __future__ import annotations

import itertools

import click
import pytest

from launcher.bench.lengths import MIXED, Length, lengths, read_length
from launcher.bench.load import Bounds, measure_level
from launcher.bench.trial import label
from launcher.bench.verdict import deciding
from launcher.cli import benchtable
from launcher.cli.load_options import grid
from launcher.cli.load_options import lengths as read_option
from launcher.documents.comparison import Comparison, Level
from tests.bench.server import serving, words

ALL = Level(clients=4, tokens=400, shortest=16)


@pytest.mark.parametrize(
    ("word", "length"),
    [
        ("128", Length(128)),
        ("mixed", Length(MIXED[1], MIXED[0])),
        ("16-400", Length(400, 16)),
        ("64-64", Length(64)),
    ],
)
def test_a_length_as_it_is_asked_for(word: str, length: Length) -> None:
    assert read_length(word) == length


@pytest.mark.parametrize("word", ["", "0", "-5", "400-16", "16-", "a", "16-b", "1e9", "9999999"])
def test_what_is_no_length_is_refused(word: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its text is not shown to anybody
        read_length(word)
    context = click.Context(click.Command("bench"))
    option = click.Option(["--tokens"])
    with pytest.raises(click.BadParameter, match="not a list of lengths such as 128,512 or mixed"):
        read_option(context, option, f"128,{word}")


def test_the_option_takes_each_length_once() -> None:
    context, option = click.Context(click.Command("bench")), click.Option(["--tokens"])
    assert read_option(context, option, "128,mixed,16-400") == (Length(128), Length(400, 16))
    assert read_option(context, option, None) is None


def test_everybody_gets_the_same_lengths_and_all_of_them() -> None:
    first, again = (list(itertools.islice(lengths(ALL), 5000)) for _ in range(2))
    assert first == again
    assert (min(first), max(first)) == (16, 400)
    assert 200 < sum(first) / len(first) < 216
    assert set(itertools.islice(lengths(Level(tokens=128)), 9)) == {128}


def test_texts_of_mixed_lengths_are_sent_and_counted() -> None:
    bounds = Bounds(requests=40, warmup=2)
    level = Level(clients=2, batch=2, tokens=60, shortest=10)
    with serving() as server:
        row = measure_level(server.target(), level, words(), bounds)
        sent = sorted(len(text.split()) + 2 for text in server.seen)
    assert (row.requests, row.errors, row.tokens, row.shortest) == (40, 0, 60, 10)
    assert 10 <= sent[0] < 20
    assert 50 < sent[-1] <= 60
    assert row.tokens_asked is not None
    assert row.tokens_counted == row.tokens_asked
    assert 20 < row.tokens_asked < 50
    assert not any("texts had" in each for each in benchtable.remarks([row], None))
    assert "10-60" in benchtable.rows_table([row])[1].split()


def test_the_warm_up_does_not_shift_the_lengths() -> None:
    """Whoever is measured later has connections and caches of its own, not other texts."""
    seen = []
    for warmup in (1, 7):
        with serving() as server:
            level = Level(clients=1, tokens=60, shortest=10)
            measure_level(server.target(), level, words(), Bounds(requests=9, warmup=warmup))
            seen.append([len(text.split()) for text in server.seen[warmup : warmup + 9]])
    assert seen[0] == seen[1]


def test_a_text_too_long_for_the_model_is_a_reason() -> None:
    with serving() as server:
        row = measure_level(server.target(longest=256), ALL, words(), Bounds(requests=2))
    assert row.reason == "the longest text it takes has 256 tokens"
    assert (row.tokens, row.shortest) == (400, 16)


def test_a_level_in_words() -> None:
    assert label(ALL) == "4 clients, 1 text of 16 to 400 tokens"
    assert benchtable.name(ALL) == "4 clients, 1 × 16-400 tokens"
    (level,) = grid((4,), (1,), (Length(400, 16),))
    assert level == ALL


@pytest.mark.parametrize(("tokens", "decides"), [(128, ALL), (512, Level(clients=4, tokens=512))])
def test_the_heavier_load_decides_by_its_mean_length(tokens: int, decides: Level) -> None:
    levels = (Level(clients=4, tokens=tokens), ALL)
    made = Comparison(made="", complete=True, repeats=1, levels=levels, modes=())
    assert deciding(made) == decides
