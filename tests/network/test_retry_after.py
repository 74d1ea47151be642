"""What a server's Retry-After says, in seconds."""

from __future__ import annotations

import pytest

from launcher.network import causes
from launcher.network.retry_after import seconds

URL = "http://127.0.0.1:9/x"


@pytest.mark.parametrize(
    ("said", "wait_s"),
    [
        ("7", 7),
        (" 120 ", 120),
        ("0", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("\u0663", None),
    ],
)
def test_numbers_and_dates_are_read(said: str | None, wait_s: int | None) -> None:
    assert seconds(said) == wait_s


def test_more_digits_than_int_reads_are_no_traceback() -> None:
    """A hub's answer of 5,000 digits ended the command with a ValueError."""
    wait_s = causes.of_status(429, URL, "9" * 5000).retry_after_s
    assert wait_s is not None
    assert wait_s > 86_400
    assert causes.of_status(404, URL, "7").retry_after_s is None
