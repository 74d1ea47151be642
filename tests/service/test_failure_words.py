"""What is said of an engine that names its own end and runs on."""

from __future__ import annotations

import errno
import sys
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


@pytest.mark.parametrize(
    ("missing", "engine", "found"),
    [
        ("/engine/python", True, ("engine_missing", "/engine/python: No", "engine install")),
        ("/state/svc", True, (None, "/engine/python: /state/svc: No", "look at /state/svc")),
        (sys.executable, True, (None, f"{sys.executable}: No", "install qlaunch again")),
        (None, False, (None, "/engine/python: No", "look at /engine/python")),
    ],
)
def test_a_file_that_is_missing_at_a_start_need_not_be_the_engine(
    missing: str | None, engine: bool, found: tuple[str | None, str, str]
) -> None:
    """Each was `engine_missing`, whose cure is an installation of gigabytes."""
    error = OSError(errno.ENOENT, "No such file or directory", missing)
    failure = failures.not_started(error, "/engine/python", engine=engine)
    assert failure.failure_class == found[0]
    assert found[1] in failure.message
    assert found[2] in str(failure.fix)
