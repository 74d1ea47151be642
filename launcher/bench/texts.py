"""Fresh texts of an exact number of tokens, for any tokenizer, without having one.

The vocabulary says which words are likely one token each, and the engine's own counts (`usage`)
decide. A repeated text would measure the engine's prefix cache, so no text is made twice, and two
texts part at their second word at the latest, mostly.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from launcher.bench.lengths import TOO_FEW
from launcher.bench.load_client import AskError, Client, count_tokens
from launcher.bench.target import Target
from launcher.bench.vocabulary import COMMON, Candidates, read_candidates

GROUP = 60
"""Words tried in one text: a context of 64 tokens is the shortest in use."""
ASKS = 80
"""Requests spent on finding words, at most."""
ENOUGH = 16
"""Whole words with which texts differ enough; below that, words of several tokens are added."""
ASK_LIMIT_S = 60.0
_TRIES = 50

Count = Callable[[Sequence[str]], int | None]
"""Tokens the engine counts in some texts together; None where it refuses or does not count."""


class TextError(Exception):
    """No texts of the wanted length can be made; the message is one sentence."""


class TextSource:
    """Makes texts of random words, each of them new.

    Args:
        heads: words to begin a text with.
        words: all others, with their number of tokens.
        around: tokens of a text beyond those of its words, its head's own included.
        seed: None differs every time.
    """

    def __init__(
        self,
        heads: Sequence[str],
        words: dict[str, int],
        around: int,
        seed: int | None = None,
    ) -> None:
        if not heads or not words:
            raise TextError("no word is known that texts could be made of")
        self.around = around
        self._heads = list(heads)
        self._single = [word for word, count in words.items() if count == 1]
        self._words = words
        self._random = random.Random(seed)  # noqa: S311 - texts, no secrets
        self._seen: set[int] = set()
        self._sums = [True]
        """Whether words can have that many tokens together, by number; grown on demand."""

    @property
    def exact(self) -> bool:
        """Whether every length can be met."""
        return bool(self._single)

    def take(self, count: int, tokens: int) -> list[str]:
        """`count` texts of `tokens` tokens that were not made before.

        Raises:
            TextError: so short a text cannot be made, or so many different ones.
        """
        room = tokens - self.around
        if room < 0:
            raise TextError(f"the shortest text has {self.around} tokens with this tokenizer")
        return [self._new(room, tokens) for _ in range(count)]

    def _new(self, room: int, tokens: int) -> str:
        for _ in range(_TRIES):
            text = " ".join([self._random.choice(self._heads), *self._fill(room)])
            key = hash(text)
            if key not in self._seen:
                self._seen.add(key)
                return text
        raise TextError(f"{TOO_FEW} of {tokens} tokens")

    def _fill(self, room: int) -> list[str]:
        if len(self._single) >= ENOUGH or len(self._single) == len(self._words):
            return self._random.choices(self._single, k=room)
        return self._mixed(room)

    def _mixed(self, room: int) -> list[str]:
        """Words of several tokens that fill `room`, or come as near as they can."""
        while not self._fillable(room):
            room -= 1
        chosen: list[str] = []
        while room > 0:
            fitting = [word for word, count in self._words.items() if self._fillable(room - count)]
            word = self._random.choice(fitting)
            chosen.append(word)
            room -= self._words[word]
        return chosen

    def _fillable(self, room: int) -> bool:
        """Whether words can have exactly so many tokens together."""
        sizes = set(self._words.values())
        while len(self._sums) <= room:
            at = len(self._sums)
            self._sums.append(any(at >= size and self._sums[at - size] for size in sizes))
        return room >= 0 and self._sums[room]


def texts_for(model_path: str | Path | None, target: Target, seed: int | None = None) -> TextSource:
    """Texts for the tokenizer of a checkpoint, proved by the server that serves it.

    Args:
        model_path: folder of the checkpoint, None where it is not known.
        seed: None differs every time.

    Raises:
        TextError: the server does not answer, does not count tokens, or no words could be found.
    """
    candidates = read_candidates(model_path)
    with asyncio.Runner() as runner:
        client = Client(target, 1, ASK_LIMIT_S)
        runner.run(client.__aenter__())
        try:
            return find_words(candidates, _counting(runner, client), seed)
        finally:
            runner.run(client.__aexit__(None, None, None))


def _counting(runner: asyncio.Runner, client: Client) -> Count:
    """Asks the server; a text that is refused has no count, a server that fails ends the search."""

    def count(texts: Sequence[str]) -> int | None:
        try:
            return runner.run(count_tokens(client, texts))
        except AskError as error:
            if error.status is not None and 400 <= error.status < 500 and error.status != 401:
                return None
            raise TextError(f"the engine did not count the tokens of a text: {error}") from None

    return count


def find_words(candidates: Candidates, count: Count, seed: int | None = None) -> TextSource:
    """Ask the engine which of the candidates are one token each, and what it puts around a text.

    Raises:
        TextError: it does not count, or nothing fits.
    """
    return _Finder(candidates, count).find(seed)


class _Finder:
    def __init__(self, candidates: Candidates, count: Count) -> None:
        self._heads = candidates.heads
        self._candidates = candidates.words
        self._count = count
        self._left = ASKS
        self._around: int | None = None

    def find(self, seed: int | None) -> TextSource:
        if self._ask([self._text("a", "word")]) is None:
            raise TextError("the engine did not count the tokens of a text")
        self._calibrate()
        good: list[str] = []
        if self._around is not None:
            size = GROUP
            groups = [
                self._candidates[at : at + size] for at in range(0, len(self._candidates), size)
            ]
            self._sieve(groups, good)
        words = dict.fromkeys(good, 1)
        if len(words) < ENOUGH:
            words |= self._measured()
        if self._around is None:
            raise TextError("the engine's counts of tokens do not add up")
        return TextSource(self._heads, words, self._around, seed)

    def _text(self, *words: str) -> str:
        return " ".join([self._heads[0], *words])

    def _ask(self, texts: Sequence[str]) -> int | None:
        if self._left <= 0:
            return None
        self._left -= 1
        return self._count(texts)

    def _tokens_of(self, word: str) -> tuple[int, int] | None:
        """Tokens of one word inside a text, and of what is around: from two texts of it."""
        few = self._ask([self._text(*[word] * 2)])
        many = self._ask([self._text(*[word] * 6)])
        if few is None or many is None or many <= few or (many - few) % 4:
            return None
        each = (many - few) // 4
        return each, few - 2 * each

    def _calibrate(self) -> None:
        for word in self._candidates[:4]:
            found = self._tokens_of(word)
            if found is not None and found[0] == 1:
                self._around = found[1]
                return

    def _sieve(self, groups: list[list[str]], good: list[str]) -> None:
        """Keep the groups whose words are one token each; halve those that are not.

        Every text of a request has its own head, so that heads are tried too.
        """
        assert self._around is not None
        if not groups:
            return
        texts = [
            " ".join([self._heads[at % len(self._heads)], *group])
            for at, group in enumerate(groups)
        ]
        expected = sum(self._around + len(group) for group in groups)
        if self._ask(texts) == expected:
            good += [word for group in groups for word in group]
        elif len(groups) > 1:
            half = len(groups) // 2
            self._sieve(groups[:half], good)
            self._sieve(groups[half:], good)
        elif len(groups[0]) > 1 and (len(groups[0]) > 4 or len(good) < ENOUGH):
            half = len(groups[0]) // 2
            self._sieve([groups[0][:half]], good)
            self._sieve([groups[0][half:]], good)

    def _measured(self) -> dict[str, int]:
        """Common words with their number of tokens, each measured by itself."""
        found: dict[str, int] = {}
        for word in COMMON:
            seen = self._tokens_of(word)
            if seen is None:
                continue
            if self._around is None:
                self._around = seen[1]
            if seen[1] == self._around:
                found[word] = seen[0]
            if len(found) >= ENOUGH:
                break
        return found
