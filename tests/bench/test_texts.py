from __future__ import annotations

import json
import string
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from launcher.bench.texts import ASKS, TextError, TextSource, find_words, texts_for
from launcher.bench.vocabulary import COMMON, Candidates, choose, read_candidates, read_pieces
from tests.bench.server import serving
from tests.checkpoints import make_bert, make_qwen3, make_roberta


def counter(tokenizer: Tokenizer) -> Callable[[Sequence[str]], int]:
    """What an engine would say of its `usage`."""

    def count(texts: Sequence[str]) -> int:
        return sum(len(tokenizer.encode(text).ids) for text in texts)

    return count


WORDS = [
    first + vowel + middle + end
    for first in "bcdfgklmnp"
    for vowel in "aeiou"
    for middle in ("nt", "rk", "lm")
    for end in "aeo"
]
"""450 words of no language."""


def unigram() -> Tokenizer:
    """As XLM-RoBERTa's: SentencePiece Unigram, with pieces inside words that tempt."""
    pieces = [("<s>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -8.0) for word in WORDS]
    pieces += [(f"▁{word}s", -30.0) for word in WORDS[:100]]  # the parts are likelier
    pieces += [(letter, -6.0) for letter in (*string.ascii_lowercase, "▁")]
    made = Tokenizer(models.Unigram(pieces, unk_id=2))
    made.normalizer = normalizers.Sequence([normalizers.NFKC()])
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    made.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return made


def byte_level() -> Tokenizer:
    """As Qwen's: byte-level BPE without a blank before the first word, an end token alone."""
    names = ["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges: list[tuple[str, str]] = []

    def grow(word: str) -> None:
        whole = word[0]
        for letter in word[1:]:
            if (whole, letter) not in merges:
                merges.append((whole, letter))
                names.append(whole + letter)
            whole += letter

    for word in WORDS:
        grow(f"Ġ{word}")
    vocabulary = {name: at for at, name in enumerate(dict.fromkeys(names))}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 0)])
    return made


def letters() -> Tokenizer:
    """Every letter is a token, and nobody has its vocabulary."""
    names = {letter: at for at, letter in enumerate(["[UNK]", *string.ascii_lowercase, "##"])}
    names |= {f"##{letter}": len(names) + at for at, letter in enumerate(string.ascii_lowercase)}
    made = Tokenizer(models.WordPiece(names, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    "bert": make_bert,
    "roberta": make_roberta,
    "qwen3": make_qwen3,
}


def saved(tokenizer: Tokenizer) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        folder.mkdir()
        tokenizer.save(str(folder / "tokenizer.json"))
        return folder

    return make


MADE = CHECKPOINTS | {"unigram": saved(unigram()), "byte-level": saved(byte_level())}


@pytest.mark.parametrize("kind", MADE)
def test_texts_have_exactly_the_tokens_asked_for_and_never_come_twice(
    kind: str, tmp_path: Path
) -> None:
    folder = MADE[kind](tmp_path / kind)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    asked = 0

    def count(texts: Sequence[str]) -> int:
        nonlocal asked
        asked += 1
        return counter(tokenizer)(texts)

    source = find_words(read_candidates(folder), count)
    assert source.exact
    assert asked <= ASKS
    seen: set[str] = set()
    for tokens in (source.around + 4, 31, 32, 128, 511):
        texts = source.take(20, tokens)
        assert {len(tokenizer.encode(text).ids) for text in texts} == {tokens}
        seen |= set(texts)
    assert len(seen) == 100


def test_two_sources_make_other_texts_and_a_seed_the_same() -> None:
    def source(seed: int | None) -> TextSource:
        return TextSource(["a"], dict.fromkeys(WORDS, 1), 2, seed)

    assert source(None).take(5, 64) != source(None).take(5, 64)
    assert source(7).take(5, 64) == source(7).take(5, 64)


def test_pieces_that_the_tokenizer_takes_apart_are_sieved_out() -> None:
    tokenizer = unigram()
    plural = [f"{word}s" for word in WORDS[:100]]
    source = find_words(Candidates(["a"], [*WORDS[100:300], *plural]), counter(tokenizer))
    for text in source.take(50, 40):
        assert not set(text.split()) & set(plural)


def test_without_any_vocabulary_common_words_are_measured() -> None:
    tokenizer = letters()
    source = find_words(Candidates(["a"], []), counter(tokenizer))
    assert not source.exact  # no word has a single token, but sums of two and three do
    for text in source.take(20, 60):
        counted = len(tokenizer.encode(text).ids)
        assert counted == 60
        assert set(text.split()) <= {"a", *COMMON}


def test_too_short_and_too_few_are_one_sentence() -> None:
    source = TextSource(["a"], {"one": 1, "two": 1}, 3)
    assert len(source.take(2, 4)) == 2
    with pytest.raises(TextError, match="not enough different texts of 4 tokens"):
        source.take(1, 4)
    with pytest.raises(TextError, match="the shortest text has 3 tokens"):
        source.take(1, 2)
    with pytest.raises(TextError, match="no word"):
        TextSource(["a"], {}, 3)


def test_an_engine_that_does_not_count_is_one_sentence() -> None:
    with pytest.raises(TextError, match="did not count"):
        find_words(Candidates(["a"], WORDS), lambda _texts: None)
    with pytest.raises(TextError, match="do not add up"):
        find_words(Candidates(["a"], WORDS), lambda _texts: 1)


def test_the_server_itself_is_asked() -> None:
    with serving(key="canary-1") as server:
        source = texts_for(None, server.target())
        assert source.exact
        assert source.around == 3  # two around, and the head
        assert {len(text.split()) + 2 for text in source.take(9, 50)} == {50}


def test_a_server_that_is_not_there_is_said_so() -> None:
    with serving() as server:
        target = server.target()
    with pytest.raises(TextError, match=r"did not count .*: cannot connect to"):
        texts_for(None, target)


def test_a_server_that_stops_answering_ends_the_search_at_once() -> None:
    with serving(status=lambda number: 503 if number > 1 else 200) as server:
        with pytest.raises(TextError, match=r"did not count .*: HTTP 503: too much"):
            texts_for(None, server.target())
        assert server.calls == 3
    with (
        serving(key="canary-1") as server,
        pytest.raises(TextError, match=r"did not count .*: HTTP 401"),
    ):
        texts_for(None, server.target(key="canary-2"))


def test_groups_that_are_too_long_for_the_context_are_halved(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")

    def small(texts: Sequence[str]) -> int | None:
        lengths = [len(text.split()) for text in texts]
        return None if max(lengths) > 20 else sum(lengths)

    source = find_words(read_candidates(tmp_path), small)
    assert {len(text.split()) for text in source.take(5, 16)} == {16}


def test_a_server_without_counts_is_said_so() -> None:
    with serving(tokens=None) as server, pytest.raises(TextError, match="did not count"):
        texts_for(None, server.target())


def test_words_of_each_kind_of_vocabulary() -> None:
    plain = choose(["cat", "##s", "[CLS]", "dogs", "Upper", "x", "3d"])
    assert plain == Candidates(sorted(["cat", "dogs"], key=len, reverse=True), ["dogs", "cat"])
    marked = choose(["▁cat", "▁Dog", "cat", "ting", "▁"])
    assert marked == Candidates(["a"], ["cat"])
    both = [mark + word for word in WORDS for mark in ("Ġ", "")]
    assert set(choose([*both, "Ġonlymarked"]).words) == set(WORDS)
    assert choose([]) == Candidates(["a"], [])


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("tokenizer.json", json.dumps({"model": {"vocab": {"one": 1, "two": 2}}}), ["one", "two"]),
        ("tokenizer.json", json.dumps({"model": {"vocab": [["▁one", -1.5]]}}), ["▁one"]),
        ("tokenizer.json", "{", []),
        ("tokenizer.json", "[]", []),
        ("tokenizer.json", json.dumps({"model": {"vocab": 3}}), []),
        ("tokenizer.json", "[" * 100_000, []),
        ("vocab.json", json.dumps({"Ġone": 1}), ["Ġone"]),
        ("vocab.txt", "[PAD]\none\n##s\n", ["[PAD]", "one", "##s"]),
        ("other", "", []),
    ],
)
def test_vocabularies_are_read_and_damaged_ones_passed_over(
    tmp_path: Path, name: str, text: str, found: list[str]
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_pieces(tmp_path) == found


def test_a_linked_tokenizer_is_followed(tmp_path: Path) -> None:
    """Hubs' caches hold links to the files."""
    (tmp_path / "blob").write_text(json.dumps({"model": {"vocab": {"one": 1}}}))
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "tokenizer.json").symlink_to(tmp_path / "blob")
    assert read_pieces(folder) == ["one"]
