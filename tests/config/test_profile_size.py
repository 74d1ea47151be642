"""Sizes and compute capabilities as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.config.size import parse_capability, parse_card_memory, parse_size
from launcher.errors import ExitCode, QlaunchError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GiB", 4 * 2**30),
        ("4 GiB", 4 * 2**30),
        ("4gib", 4 * 2**30),
        ("512MiB", 512 * 2**20),
        ("1KiB", 1024),
        ("1.5GiB", 3 * 2**29),
        ("0.1GB", 100_000_000),
        ("4GB", 4_000_000_000),
        ("2MB", 2_000_000),
        ("3kB", 3000),
        ("1TiB", 2**40),
        ("1048576", 1_048_576),
        ("7 B", 7),
        ("0", 0),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        *["", " ", "GiB", "4G", "4Gi", "4 G iB", "-4GiB", "+4GiB", "4,5GiB", "1e9", "1.5"],
        *[
            "0.3KB1",
            "0.0001KiB",
            "4GiB\0",
            "\u0664GiB",
            "9" * 18 + "TiB",
            "9" * 5000,
            "inf",
            "0x10",
        ],
    ],
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(QlaunchError, match="is not a size") as caught:
        parse_size(text)
    assert caught.value.code == "size_invalid"
    assert caught.value.exit_code is ExitCode.USAGE
    assert "4GiB" in (caught.value.fix or "")


@given(text=st.text(max_size=30))
def test_any_text_is_a_size_or_refused(text: str) -> None:
    try:
        size = parse_size(text)
    except QlaunchError:
        return
    assert 0 <= size < 2**63


@pytest.mark.parametrize(("text", "pair"), [("7.5", (7, 5)), ("8.0", (8, 0)), ("12.1", (12, 1))])
def test_compute_capabilities(text: str, pair: tuple[int, int]) -> None:
    assert parse_capability(text) == pair


@pytest.mark.parametrize("text", ["", "7", "75", "7.5.1", "sm75", "7.", ".5", "7.5 ", "7,5", "0.5"])
def test_what_is_no_compute_capability(text: str) -> None:
    with pytest.raises(QlaunchError, match="is not a compute capability"):
        parse_capability(text)


@pytest.mark.parametrize("text", ["-4GB", "0GB", "4 gbs", "-1"])
def test_a_cards_memory_is_quoted_as_it_was_typed(text: str) -> None:
    """It named `-4GiB`, or a number of bytes."""
    with pytest.raises(QlaunchError) as caught:
        parse_card_memory(text)
    assert f"`{text}` is not " in caught.value.message
