"""Sizes and compute capabilities as people write them."""

from __future__ import annotations

import re
from fractions import Fraction

from launcher.errors import QlaunchError
from launcher.yaml_reader import shown

UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
"""Bytes a unit, by IEC 80000-13: GiB is 2^30, GB is 10^9."""


def parse_size(given: str | int) -> int:
    """Bytes in a size such as `4GiB`, `1.5 GB`, `512MiB` or `1048576`.

    Raises:
        QlaunchError: `size_invalid` (exit 2): no size, a unit that could mean two things (`4G`),
            or a fraction of a byte.
    """
    text = str(given)
    found = re.fullmatch(r"\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)\s*", text, re.ASCII)
    factor = UNITS.get(found[2].lower()) if found else None
    if found is None or factor is None:
        raise _invalid(text)
    size = Fraction(found[1]) * factor
    if size.denominator != 1 or size >= 2**63:
        raise _invalid(text)
    return int(size)


def parse_need(given: str | int) -> int:
    """Bytes of memory that something needs, in `parse_size`'s words: more than none.

    Raises:
        QlaunchError: `size_invalid` (exit 2), as `parse_size`.
    """
    if (size := parse_size(given)) < 1:
        raise _invalid(str(given), "memory that anything needs")
    return size


def parse_card_memory(given: str | int) -> int:
    """Bytes of a card's memory as it is sold: `8GB` on the box is 8 GiB on the card.

    Raises:
        QlaunchError: `size_invalid` (exit 2), as `parse_size`.
    """
    text = str(given)
    try:
        size = parse_size(re.sub(r"(?<=[0-9 ])gb\s*$", "GiB", text, flags=re.IGNORECASE))
    except QlaunchError:
        raise _invalid(text) from None
    if size < 1 << 20:
        raise _invalid(text, "the memory of a card")
    return size


def _invalid(text: str, what: str = "a size") -> QlaunchError:
    return QlaunchError(
        f"`{shown(text, 40)}` is not {what}",
        code="size_invalid",
        fix="write a number and a unit (KiB, MiB, GiB, KB, MB, GB), such as 4GiB",
    )


def parse_capability(text: str) -> tuple[int, int]:
    """Major and minor of a CUDA compute capability such as `7.5`.

    Raises:
        QlaunchError: `capability_invalid` (exit 2).
    """
    found = re.fullmatch(r"([1-9][0-9]?)\.([0-9])", text, re.ASCII)
    if found is None:
        raise QlaunchError(
            f"`{shown(text, 40)}` is not a compute capability",
            code="capability_invalid",
            fix='write major and minor, quoted, such as "7.5"',
        )
    return int(found[1]), int(found[2])
