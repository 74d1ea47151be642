"""A model's own tokenizer: how many tokens a text has, and where it is cut.

The `tokenizers` library reads the checkpoint's tokenizer.json, as the server behind does.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

_FILE: Final = "tokenizer.json"
_ADDED: Final = 8
"""Tokens that a tokenizer may make of nothing, besides its special ones: a leading space's."""
_AT_ONCE: Final = 2 << 10
"""Characters that are read in the event loop; more of them are read in a thread."""
LEAST_READ: Final = 4 << 10
"""Characters of a text that are read first; a text of 8 MB read whole takes 1 GB."""
CHARACTERS: Final = 16
"""For each token that is kept, at first; four times as many each time that they are too few."""
MOST_READ: Final = 1 << 20
"""Characters without a space among them after which a word is taken to have ended."""
_WORD_ENDED: Final = re.compile(r"\s\S")
_MOST_LOADED: Final = 8


class NoTokenizerError(Exception):
    """There is no tokenizer to ask; the message says why, in a sentence without its end."""


class ModelTokenizer:
    """The tokenizer of one checkpoint; it never cuts or pads by itself."""

    def __init__(self, path: Path) -> None:
        """Read tokenizer.json.

        Raises:
            NoTokenizerError: the file or the library is absent, or the file cannot be read.
        """
        self._tokenizer = _opened(path)
        self.vocabulary = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self.prefix, self.suffix = _around(self._tokenizer)

    @property
    def specials(self) -> int:
        """Tokens around every text."""
        return len(self.prefix) + len(self.suffix)

    def may_exceed(self, text: str, longest: int) -> bool:
        """Whether a text may have more than `longest` tokens; quick, and never wrongly False."""
        # A character of ASCII is a token at most; others may be normalised into many.
        return not text.isascii() or len(text) + self.specials + _ADDED > longest

    async def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Token ids with special ones, and the places of tokens in the text, of each text."""
        if not texts:
            return []
        work = self._tokenizer.encode_batch
        if sum(map(len, texts)) <= _AT_ONCE:
            return work(list(texts))
        return await asyncio.to_thread(work, list(texts))

    async def beginnings(self, texts: Sequence[str], longest: int) -> list[Encoding]:
        """The tokens of each text, or of so much of it that its first `longest` are among them.

        They are those of the whole text: what is left out begins after the end of a word that no
        token of theirs is part of.
        """
        results: dict[int, Encoding] = {}
        rest = dict(enumerate(texts))
        size = max(LEAST_READ, CHARACTERS * longest)
        while rest:
            encodings = await self.encode([text[:size] for text in rest.values()])
            for (place, text), encoding in zip(list(rest.items()), encodings, strict=True):
                if len(text) <= size or self._enough(text[:size], encoding, longest):
                    results[place] = encoding
                    del rest[place]
            size *= 4
        return [results[place] for place in range(len(texts))]

    def _enough(self, beginning: str, encoding: Encoding, longest: int) -> bool:
        if len(encoding.ids) <= longest:
            return False
        last = max(0, len(self.prefix) + longest - self.specials - 1)
        end = encoding.offsets[last][1]
        return len(beginning) >= MOST_READ or bool(_WORD_ENDED.search(beginning, end))

    def cut_ids(self, ids: Sequence[int], longest: int) -> tuple[int, ...]:
        """The first `longest` tokens, and the special ones that end a text if `ids` ends so."""
        if len(ids) <= longest:
            return tuple(ids)
        tail = self.suffix
        if tail and len(tail) < longest and tuple(ids[-len(tail) :]) == tail:
            return (*ids[: longest - len(tail)], *tail)
        return tuple(ids[:longest])

    async def cut_text(self, text: str, encoding: Encoding, longest: int) -> str:
        """The longest beginning of a text that has no more than `longest` tokens.

        Args:
            text: it has more.
            encoding: of the text.
            longest: with special tokens.
        """
        kept = longest - self.specials
        while kept > 0:
            _start, end = encoding.offsets[len(self.prefix) + kept - 1]
            beginning = text[:end]
            # Cut within a word, the rest of it may make more tokens than it was.
            if len((await self.encode([beginning]))[0].ids) <= longest:
                return beginning
            kept -= 1
        return ""


def _opened(path: Path) -> Tokenizer:
    if importlib.util.find_spec("tokenizers") is None:
        raise NoTokenizerError("the package tokenizers is not installed (qlaunch[gateway])")
    from tokenizers import Tokenizer

    if not path.is_file():
        raise NoTokenizerError("its checkpoint has no tokenizer.json")
    try:
        tokenizer: Tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for all that is wrong in a file
        raise NoTokenizerError(f"its tokenizer.json cannot be read ({str(error)[:80]})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _around(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens before and after every text."""
    encoding = tokenizer.encode("a")
    mask = encoding.special_tokens_mask
    own = [place for place, special in enumerate(mask) if not special] or [0]
    return tuple(encoding.ids[: own[0]]), tuple(encoding.ids[own[-1] + 1 :])


class Tokenizers:
    """Tokenizers by the file they were read from; a file that changed is read again."""

    def __init__(self) -> None:
        self._loaded: OrderedDict[tuple[str, int, int], ModelTokenizer] = OrderedDict()
        self._lock = asyncio.Lock()

    async def of(self, folder: str) -> ModelTokenizer:
        """The tokenizer of the checkpoint in a folder.

        Raises:
            NoTokenizerError: as `ModelTokenizer`.
        """
        path = Path(folder) / _FILE
        try:
            stat = path.stat()
        except OSError:
            raise NoTokenizerError("its checkpoint has no tokenizer.json") from None
        stamp = (str(path), stat.st_mtime_ns, stat.st_size)
        if stamp not in self._loaded:
            async with self._lock:
                if stamp not in self._loaded:
                    self._loaded[stamp] = await asyncio.to_thread(ModelTokenizer, path)
                while len(self._loaded) > _MOST_LOADED:
                    self._loaded.popitem(last=False)
        return self._loaded[stamp]
