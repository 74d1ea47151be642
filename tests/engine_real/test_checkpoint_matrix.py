"""The matrix of checkpoints on the real engine: what is served has transformers' own vectors.

Every row starts a whole engine with the command of its plan, in a process forked from one that has
imported SGLang already (many.py): a second a row. Some rows are brought up for real too.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints.matrix import TEXTS, Row, rows
from tests.engine_real.forked import Here, Many, compared
from tests.engine_real.qlaunch import Home

SERVED = rows(served=True)
STARTED = [(row, profile) for row, profile in SERVED if row.start]
ALIKE = 0.9999
"""Least cosine of float32 with float32."""
AS_LONG = 1e-3
"""Most that a length may differ from the reference's, as a share of it."""


def ids(found: list[tuple[Row, str]]) -> list[str]:
    return [row.name for row, _ in found]


@pytest.mark.parametrize(("row", "profile"), SERVED, ids=ids(SERVED))
def test_vectors_are_transformers_own(
    row: Row, profile: str, many: Many, here: Here, tmp_path: Path
) -> None:
    model = row.make(tmp_path / "checkpoint")
    here.home.profile("row", model, "dtype: float32")
    cosine, off = compared(many, here, "row", model, TEXTS).differences()
    assert cosine >= ALIKE
    assert off <= AS_LONG


@pytest.mark.parametrize(("row", "profile"), STARTED, ids=ids(STARTED))
def test_brought_up_and_verified(row: Row, profile: str, home: Home, tmp_path: Path) -> None:
    model = row.make(tmp_path / "checkpoint")
    smoke = home.run("smoke", "--up", home.profile("row", model), "--json").ok()
    assert all(smoke.checks.values())
