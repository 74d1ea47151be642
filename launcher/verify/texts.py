"""The texts of the smoke: few and short, so that a slow CPU answers in seconds, yet telling.

With MiniLM's tokenizer 370 tokens in the first call, and 780 in all with an overflow of 72. The
names stand for the texts in reports: texts themselves are never logged.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from launcher.verify.beat import BEAT, BEAT_TEXT


@dataclass(frozen=True)
class Text:
    """One input, and the name that reports use for it."""

    name: str
    text: str


_LONG = (
    "An embedding model reads a passage and answers with a list of numbers, so that passages of "
    "similar meaning lie close together. A search engine stores one such list for every page it "
    "knows. When somebody asks a question, the question is turned into numbers by the same model, "
    "and the pages whose numbers point the same way are shown first. Nothing in this depends on "
    "shared words: a page about kittens can answer a question about young cats. It does depend on "
    "every number being right, because a store filled with wrong ones looks exactly like a store "
    "filled with right ones until people notice, months later, that they no longer find anything."
)

TEXTS: tuple[Text, ...] = (
    Text("zh_weather", "今天天气很好，适合去公园散步。"),
    Text("zh_sunny", "阳光明媚的日子，很适合到户外走走。"),
    Text("zh_revenue", "公司第三季度的营业收入同比下降了百分之八。"),
    # float16 turns some Qwen3-Embedding inputs that begin like this into NaN.
    Text("importance", "importance of life"),
    Text("cat", "A cat is sleeping on the warm windowsill."),
    Text("kitten", "A kitten naps in the sunny window."),
    Text("rates", "The central bank raised interest rates by a quarter point."),
    Text("password", "How do I reset my password?"),
    Text("recovery", "Steps to recover an account when the password is forgotten."),
    Text("code", "def add(a: int, b: int) -> int:\n    return a + b\n"),
    Text("emoji", "Great job! 🎉👍🏽🚀"),
    Text("arabic", "مرحبا بالعالم، كيف حالك اليوم؟"),
    Text("japanese", "図書館は駅の隣にあります。"),
    Text("one_token", "hello"),
    Text("prefix_north", "The river runs slowly past the old mill and turns north."),
    Text("prefix_flood", "The river runs slowly past the old mill and floods the road."),
    Text("long", _LONG),
    Text(BEAT, BEAT_TEXT),
)

BY_NAME: dict[str, str] = {each.name: each.text for each in TEXTS}

TRIPLES: tuple[tuple[str, str, str], ...] = (
    ("zh_weather", "zh_sunny", "zh_revenue"),
    ("cat", "kitten", "rates"),
    ("password", "recovery", "cat"),
)
"""Names of an anchor, a text of like meaning, and one of another meaning."""

FRESH = "fresh"
"""Name of a text that no engine has seen: a prefix cache that already holds all the others gives
the same wrong vector every time, and only a new text still shows it."""

AGAIN: tuple[str, ...] = (
    FRESH,
    "zh_weather",
    "importance",
    "emoji",
    "one_token",
    "prefix_north",
    "prefix_flood",
)
"""Asked a second time in this order, then in the reverse order."""

ALONE: tuple[str, ...] = ("zh_weather", "one_token", "prefix_flood", BEAT)
"""Asked one by one; the last one's vector is what later beats are compared with."""

DEFAULT_FORMAT = "zh_weather"
"""Asked as the openai client asks when nobody chooses a format: base64 where the server can."""

AFTER = "one_token"
"""Asked after the overflow; its time is the reported latency."""

_FILLERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def fresh_text() -> str:
    """A short sentence with a number that was not asked for before."""
    return f"Parcel {secrets.randbelow(10**9):09d} has arrived."


def overflow_texts(count: int) -> tuple[str, ...]:
    """`count` inputs of one token each (more where a tokenizer adds its own)."""
    return tuple(_FILLERS[index % len(_FILLERS)] for index in range(count))
