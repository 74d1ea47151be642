"""The header by which a server says when to come back. Pure but for the clock."""

from __future__ import annotations

import math
import time
from email.utils import parsedate_to_datetime


def seconds(said: str | None) -> int | None:
    """Seconds to wait, None where it says nothing that can be read.

    Args:
        said: a number of seconds, or a date (RFC 9110, 10.2.3).
    """
    said = (said or "").strip()
    if said.isascii() and said.isdigit():
        return int(said[:9])  # a header may have more digits than `int` reads
    try:
        then = parsedate_to_datetime(said)
    except ValueError:
        return None
    return max(math.ceil(then.timestamp() - time.time()), 0)
