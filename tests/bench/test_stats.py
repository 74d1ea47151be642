from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.bench.stats import mean, percentile, spread
from launcher.documents.comparison import Spread

SHARES = (0.0, 0.5, 0.95, 0.99, 1.0)
NUMBERS = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=50)


@pytest.mark.parametrize("share", SHARES)
def test_no_value_has_no_percentile(share: float) -> None:
    assert percentile([], share) is None
    assert mean([]) is None


@pytest.mark.parametrize("share", SHARES)
def test_one_value_is_every_percentile(share: float) -> None:
    assert percentile([7.0], share) == 7.0
    assert mean([7.0]) == 7.0


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 1.0), (0.5, 2.0), (0.95, 2.9), (0.99, 2.98), (1.0, 3.0)]
)
def test_of_two_values_it_lies_between(share: float, value: float) -> None:
    assert percentile([1.0, 3.0], share) == pytest.approx(value)


@given(NUMBERS, st.sampled_from(SHARES))
def test_percentiles_are_those_of_numpy(values: list[float], share: float) -> None:
    expected = float(np.percentile(values, 100 * share))
    assert percentile(sorted(values), share) == pytest.approx(expected, abs=1e-6)


@given(NUMBERS)
def test_percentiles_grow_with_their_share(values: list[float]) -> None:
    ordered = sorted(values)
    found = [percentile(ordered, share) for share in SHARES]
    assert found[0] == ordered[0]
    assert found[-1] == ordered[-1]
    for low, high in itertools.pairwise(found):
        assert low is not None
        assert high is not None
        assert low <= high + 1e-6


@pytest.mark.parametrize("values", [[], [None], [math.nan, None], [math.inf]])
def test_nothing_measured_has_no_spread(values: list[float | None]) -> None:
    assert spread(values) is None


def test_a_spread_leaves_out_what_was_not_measured() -> None:
    assert spread([3.0, None, 1.0]) == Spread(median=2.0, least=1.0, most=3.0, count=2, noisy=True)
    assert spread([5.0]) == Spread(median=5.0, least=5.0, most=5.0, count=1)
    assert spread([0.0, 0.0]) == Spread(median=0.0, least=0.0, most=0.0, count=2)


@pytest.mark.parametrize(("values", "noisy"), [([93, 100, 107], False), ([92, 100, 108], True)])
def test_noise_begins_at_15_percent_of_the_median(values: list[float], noisy: bool) -> None:
    random.shuffle(values)
    found = spread(values)
    assert found is not None
    assert found.noisy is noisy
