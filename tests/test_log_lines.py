"""Lines of an engine's log: one place reads their time and their words."""

from __future__ import annotations

from datetime import datetime

import pytest

from launcher import log_lines
from tests.test_layering import relative, sources

BEGINS = "[2026-11-26 14:24:22 TP0] Scheduler hit an exception: Traceback (most recent call last):"


@pytest.mark.parametrize(
    ("line", "time", "rest"),
    [
        ("[2026-01-02 10:00:05] Load weight begin.", "2026-01-02 10:00:05", "Load weight begin."),
        ("[2026-01-02 10:00:05 TP0] x", "2026-01-02 10:00:05", "x"),
        ("[2026-01-02T10:00:05] x", "2026-01-02 10:00:05", "x"),
        ("2026-01-02 10:00:05,123 INFO x", "2026-01-02 10:00:05", "2026-01-02 10:00:05,123 INFO x"),
        ("  File 2026-01-02 10:00:05", None, "  File 2026-01-02 10:00:05"),
        ("[2026-01-02] x", None, "[2026-01-02] x"),
        ("", None, ""),
    ],
)
def test_the_time_of_a_line(line: str, time: str | None, rest: str) -> None:
    assert log_lines.time_of(line) == time
    assert log_lines.without_stamp(line) == rest


def test_a_time_that_is_none_was_written_at_no_time() -> None:
    local = datetime(2026, 1, 2, 10, 0, 5).astimezone()
    assert log_lines.written_at("[2026-01-02 10:00:05] x") == local.timestamp()
    assert log_lines.written_at("[2026-13-02 10:00:05] x") is None
    assert log_lines.written_at("x") is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[2026-01-02 10:00:05] x", True),
        ("2026-01-02T10:00:05 x", True),
        ("ERROR: x", True),
        ("ERRORS: x", False),
        ("OSError: no", False),
        ("  File x", False),
    ],
)
def test_what_begins_an_entry(line: str, expected: bool) -> None:
    assert log_lines.begins_entry(line) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", False),
        (f"{BEGINS}\n", True),
        (f"{BEGINS}\n  File x\n    run()\n", True),
        (f"{BEGINS}\n  File x\nOSError: no\n\n", False),
        (f"{BEGINS}\n  File x\nOSError: no\n\nDuring handling:\n\n{BEGINS}\n  File x\n", True),
    ],
)
def test_a_traceback_that_is_being_written_is_seen(text: str, expected: bool) -> None:
    assert log_lines.in_traceback(text) is expected


@pytest.mark.parametrize(
    "words",
    [
        log_lines.TRACEBACK,
        log_lines.DIES_OF,
        log_lines.BATCH,
        log_lines.LOAD_BEGINS,
        log_lines.LOAD_ENDS,
        log_lines.POOL_ENDS,
        log_lines.FIRED_UP,
        r"\d{4}-\d\d-\d\d",
    ],
)
def test_the_words_of_a_log_stand_in_one_place(words: str) -> None:
    places = [relative(path) for path in sources() if words in path.read_text("utf-8")]
    assert places == ["launcher/log_lines.py"]
