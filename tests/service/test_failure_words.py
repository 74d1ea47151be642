"""What is said of an engine that names its own end and runs on."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from launcher.service import failures

BEGINS = "[2026-11-26 14:24:22 TP0] Scheduler hit an exception: Traceback (most recent call last):"
GAVE_UP = "the engine did not end by itself after"


class Told(NamedTuple):
    message: str
    error: str | None
    failure_class: str = "x"
    fix: str | None = None
    lines: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("line", "match", "expected"),
    [
        (BEGINS, Told("It broke: OSError: no", "OSError: no"), "an exception"),
        (BEGINS, Told("The GPU is full.", "OSError: no"), "saying: OSError: no"),
        (BEGINS, Told("It broke.", None), "saying: Scheduler hit an exception"),
        (BEGINS, None, "saying: Scheduler hit an exception"),
        ("[2026-11-26 14:24:22] [Errno 98] taken", None, "saying: [Errno 98] taken"),
        ("Received sigquit", Told("It broke: OSError", "OSError"), "saying: Received sigquit"),
    ],
)  # fmt: skip
def test_the_first_line_of_a_traceback_is_not_quoted(
    line: str, match: Told | None, expected: str
) -> None:
    assert failures.ailing(line, match) == f"{GAVE_UP} {expected}"
