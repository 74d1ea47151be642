"""Figures from single measurements: percentiles and spreads, of any number of them. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from launcher.documents.comparison import Spread

NOISY = 0.15
"""Least and most further apart than this share of the median: the machine was not quiet."""


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The value below which `share` of the sorted values lie, interpolated; None of no value.

    As numpy's default does it (`linear`, method 7 of Hyndman and Fan), so that figures can be held
    against those of other tools.

    Args:
        ordered: finite values, sorted.
        share: 0 to 1.
    """
    if not ordered:
        return None
    place = min(max(share, 0.0), 1.0) * (len(ordered) - 1)
    low, high = math.floor(place), math.ceil(place)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def mean(values: Sequence[float]) -> float | None:
    """The mean; None of no value."""
    return math.fsum(values) / len(values) if values else None


def spread(values: Iterable[float | None]) -> Spread | None:
    """Median, least and most of what was measured; None where nothing was.

    Args:
        values: one a repeat; None and what is not finite are left out.
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None
    median, least, most = statistics.median(known), min(known), max(known)
    return Spread(
        median=median,
        least=least,
        most=most,
        count=len(known),
        noisy=most - least > NOISY * abs(median),
    )
