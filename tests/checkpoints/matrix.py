"""The matrix of checkpoints as the field's files look: how each is made, and what must happen.

A row stands for a kind of files that people really have. It is either served with the vectors that
transformers computes from the same files, or refused by `plan` and `model inspect` with exit 2 and
one sentence before anything starts. tests/cli/test_checkpoint_matrix.py holds the refusals and the
plans, tests/engine_real/test_checkpoint_matrix.py the vectors, docs/checkpoints.md shows the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Make = Callable[[Path], Path]
"""Writes a checkpoint to a folder that is not there yet, and returns it."""


@dataclass(frozen=True)
class Row:
    """One kind of checkpoint."""

    name: str
    """Unique, in file-name form; also the name of its tests."""
    what: str
    """How the files look, for docs/checkpoints.md."""
    source: str
    """The public report or the practice that it stands for."""
    make: Make
    says: tuple[str, ...] = ()
    """Words of the refusal's one sentence; empty where the checkpoint is served."""
    code: str = "model_unsupported"
    """The refusal's code."""
    how: str = ""
    """What makes a served one right, where that is not SGLang alone."""
    start: bool = False
    """Whether a whole `up` proves it too, and not only the engine inside a test's process."""

    @property
    def served(self) -> bool:
        """Whether it is served; else it is refused."""
        return not self.says


@dataclass(frozen=True)
class Section:
    """Rows under one heading of docs/checkpoints.md."""

    title: str
    profile: str
    """The shipped profile whose plan is made for its rows."""
    rows: tuple[Row, ...]


def sections() -> tuple[Section, ...]:
    """Every row, by section."""
    from tests.checkpoints import (
        decoder_rows,
        dense_rows,
        encoder_rows,
        field_rows,
        folder_rows,
        module_rows,
        odd_module_rows,
        odd_rows,
        option_rows,
        tokenizer_rows,
    )

    usual = encoder_rows, module_rows, tokenizer_rows, decoder_rows, folder_rows
    odd = odd_rows, odd_module_rows, option_rows, field_rows, dense_rows
    return tuple(section for each in (*usual, *odd) for section in each.SECTIONS)


def rows(*, served: bool) -> list[tuple[Row, str]]:
    """The rows of one outcome, each with its profile."""
    return [
        (row, section.profile)
        for section in sections()
        for row in section.rows
        if row.served is served
    ]


TEXTS = (
    "The weather is lovely today",
    "a",
    "Über ÉCLAIRS, naïve CAFÉS & ΣΟΦΟΣ: İstanbul, STRASSE",
    "How do I install a graphics card,  and which driver does it need?\n\tSee below: 3.5 % of 100",
    "日本語のテキスト と [MASK] <mask> </s> [SEP] inside",
    " ".join(["The quick brown fox jumps over the lazy dog"] * 6),
)
"""What every served row is asked: capitals, accents, marks that look special, some length."""
