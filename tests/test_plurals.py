"""One of a thing is told in the singular."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from launcher.cli.embed import _summary
from launcher.units import counted


@pytest.mark.parametrize(
    ("count", "noun", "said"),
    [
        (0, "vector", "0 vectors"),
        (1, "vector", "1 vector"),
        (2, "vector", "2 vectors"),
        (1, "entry", "1 entry"),
        (3, "entry", "3 entries"),
    ],
)
def test_a_number_of_things(count: int, noun: str, said: str) -> None:
    assert counted(count, noun) == said


def test_thousands_where_asked() -> None:
    assert counted(12_345, "row", ",") == "12,345 rows"


@pytest.mark.parametrize(("rows", "said"), [(1, "1 vector of 4 numbers"), (2, "2 vectors of")])
def test_embed_of_one_text_has_made_one_vector(rows: int, said: str) -> None:
    """It said "1 vectors"."""
    outcome = SimpleNamespace(rows=rows, dimensions=4, out=Path("v.npy"), rows_per_s=None)
    assert _summary(cast("Any", outcome)).startswith(said)
