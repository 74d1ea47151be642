"""Secrets out of text, orders to the terminal out of text, at a bounded price."""

from __future__ import annotations

import html
import json
import string
import time
import urllib.parse
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.record.scrub import LINE_LIMIT, Scrubber, terminal_safe


def scrub(text: str, secrets: Iterable[str]) -> str:
    return Scrubber(secrets)(text)


KEY = "sk-\"a\\b/c+d é&<x>'"


@pytest.mark.parametrize(
    "form",
    [
        KEY,
        json.dumps(KEY),
        json.dumps(KEY, ensure_ascii=False),
        json.dumps(json.dumps({"key": KEY})),
        json.dumps(KEY).replace("/", "\\/"),
        repr(KEY),
        repr({"api_key": KEY}),
        ascii(KEY),
        repr(KEY.encode()),
        urllib.parse.quote(KEY),
        urllib.parse.quote(KEY, safe=""),
        urllib.parse.quote_plus(KEY),
        urllib.parse.urlencode({"key": KEY}),
        urllib.parse.quote(KEY, safe="").lower().replace("sk-", "sk-"),
        html.escape(KEY),
    ],
)
def test_a_secret_goes_in_every_usual_form(form: str) -> None:
    cleaned = scrub(f"before {form} after", [KEY])
    assert "[redacted]" in cleaned
    assert cleaned.startswith("before ")
    assert cleaned.endswith(" after")
    assert "sk-" not in cleaned
    assert "a\\b" not in cleaned


def test_every_occurrence_and_every_secret() -> None:
    assert scrub("abc xyz abc", ["abc", "xyz"]) == "[redacted] [redacted] [redacted]"


def test_overlapping_secrets_leave_nothing() -> None:
    assert scrub("1abcde2", ["abc", "cde"]) == "1[redacted]2"
    assert scrub("ababa!", ["aba"]) == "[redacted]!"
    assert scrub("tokentoken-long", ["token", "token-long"]) == "[redacted]"


def test_a_secret_that_looks_like_the_mark_ends_well() -> None:
    assert scrub("eee", ["e", "redacted", "[redacted]"]) == "[redacted]"


def test_no_secrets_and_empty_ones_change_nothing() -> None:
    assert scrub("text", []) == "text"
    assert scrub("text", ["", ""]) == "text"


def test_values_are_scrubbed_at_any_depth() -> None:
    scrubber = Scrubber(["hush"])
    assert scrubber.values({"hush": ["x", ("hush!", 5)], "n": None}) == {
        "[redacted]": ["x", ["[redacted]!", 5]],
        "n": None,
    }


def test_a_secret_hidden_by_escape_sequences_or_by_the_cut_is_found() -> None:
    scrubber = Scrubber(["secret"])
    assert scrubber.printable("a sec\x1b[31mret b") == "a [redacted] b"
    line = scrubber.printable("x" * (LINE_LIMIT - 30) + "secret" * 20)
    assert "sec" not in line


secrets_ = st.text(alphabet="!#%&/=+ \"'\\<>ABCÜ漢\t", min_size=1, max_size=8)


@given(st.lists(st.one_of(st.text(max_size=10), secrets_), max_size=8), st.lists(secrets_))
def test_no_secret_survives(parts: list[str], secrets: list[str]) -> None:
    text = "".join([*parts, *secrets])
    for form in (text, json.dumps(text), repr(text), urllib.parse.quote(text, errors="replace")):
        cleaned = scrub(form, secrets)
        assert not any(secret in cleaned for secret in secrets)
    as_json = scrub(json.dumps(secrets), secrets)
    assert not any(json.dumps(secret)[1:-1] in as_json for secret in secrets)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain\ttext\nline", "plain\ttext\nline"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07shown", "shown"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bP1;2|data\x1b\\after", "after"),
        ("\x1b(Bset\x1b7save\x1b=x", "setsavex"),
        ("\x9b31mc1\x9d0;t\x9cend", "c1end"),
        ("bell\x07 back\x08 null\x00 del\x7f", "bell back null del"),
        ("10%\r20%\r\nnext", "10% 20%\nnext"),
        ("\x1b[31", "[31"),
        ("\x1b]0;never ends\nnext line", "]0;never ends\nnext line"),
        ("\x1b", ""),
        ("abc\u202egnp.exe", "abcgnp.exe"),
        ("lone \ud800 half", "lone \ufffd half"),
        (b"bytes \xff\xc3\xa9", "bytes \ufffdé"),
        ("a\u2028b", "a b"),
    ],
)
def test_what_a_terminal_would_obey_is_removed(text: str | bytes, safe: str) -> None:
    assert terminal_safe(text) == safe


def test_long_lines_are_cut_and_say_so() -> None:
    text = terminal_safe("a" * 10_000 + "\nshort\n" + "b" * LINE_LIMIT)
    first, second, third = text.split("\n")
    assert len(first) == LINE_LIMIT
    assert first.endswith("a … [10000 characters]")
    assert (second, third) == ("short", "b" * LINE_LIMIT)
    assert terminal_safe("abcdef", limit=3) == " … "


@given(st.one_of(st.text(max_size=200), st.binary(max_size=200)))
def test_any_text_becomes_printable_and_stays_as_it_is(text: str | bytes) -> None:
    safe = terminal_safe(text, limit=50)
    allowed = {"\t", "\n"}
    assert all(c in allowed or (ord(c) >= 0x20 and not 0x7F <= ord(c) < 0xA0) for c in safe)
    assert all(len(line) <= 50 for line in safe.split("\n"))
    safe.encode()
    assert terminal_safe(safe, limit=50) == safe


@given(st.text(alphabet="\x1b[]PX^_\\0123;mABC\x07\x9b\x9c \n", max_size=100))
def test_mixed_up_escape_sequences_leave_no_control_bytes(text: str) -> None:
    assert set(terminal_safe(text)) <= set(string.printable)


@pytest.mark.parametrize(
    "hostile",
    [
        "\x1b[" * 200_000,
        "\x1b[" + "0;" * 200_000,
        "\x1b]" * 200_000,
        "\x1b]" + "x" * 400_000,
        "\x1bP" + "\x1b" * 400_000,
        "\x1b" + " " * 400_000,
        "\x9d" * 400_000,
        "\x9b0" * 200_000,
        "\x1b \x1b]" * 100_000,
        "a" * 400_000,
        "é" * 400_000,
    ],
)
def test_hostile_text_takes_linear_time(hostile: str) -> None:
    began = time.process_time()
    terminal_safe(hostile)
    scrub(hostile, ["a" * 50, "\x1b[\x1b["])
    assert time.process_time() - began < 3
