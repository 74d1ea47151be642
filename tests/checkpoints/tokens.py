"""Small tokenizers, trained in milliseconds on a fixed corpus: the same files every time."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from tokenizers.processors import TemplateProcessing

from tests.checkpoints.weights import write_json

_CORPUS = """
The weather is lovely today, and the sun shines over the quiet harbour.
It is so sunny outside that the children play in the garden until evening.
A search engine compares the vector of a query with the vectors of documents.
The importance of being understood grows with the distance between two people.
How do I install a graphics card, and which driver does it need?
He drove to the stadium; she walked along the river with her brown dog.
Prices rose by 3.5 percent in 2024, more than in the twenty years before.
An embedding maps a sentence to a point, so that near points mean similar things.
Please write a function that returns the sum of all numbers from 1 to 100.
The quick brown fox jumps over the lazy dog while music plays in the next room.
Instruct: Given a web search query, retrieve relevant passages that answer the query
Query: what is the capital of the country, and how many people live there?
""".strip().splitlines()


def byte_level(vocab: int, specials: tuple[str, ...], template: str) -> Tokenizer:
    """Byte-level BPE of at most `vocab` tokens: every text has tokens, none is unknown.

    Args:
        specials: tokens with the ids 0, 1, …
        template: how a text is wrapped, such as `<s> $A </s>`.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    _wrap(tokenizer, template)
    return tokenizer


def wordpiece(vocab: int) -> Tokenizer:
    """BERT's uncased WordPiece of at most `vocab` tokens; `[CLS] $A [SEP]`."""
    specials = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    letters = sorted({chr(code).lower() for code in range(33, 127)})
    counts = Counter(re.findall(r"[a-z]{2,}", " ".join(_CORPUS).lower()))
    # Not trained: the library's trainer breaks ties by chance.
    words = sorted(counts, key=lambda word: (-counts[word], word))
    pieces = [*specials, *letters, *(f"##{letter}" for letter in letters), *words][:vocab]
    ids = {piece: at for at, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(specials))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    _wrap(tokenizer, "[CLS] $A [SEP]")
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, *, kind: str, max_length: int, **roles: str) -> None:
    """`tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`.

    Args:
        kind: tokenizer class that transformers builds.
        roles: `pad_token="[PAD]"` and so on.
    """
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True) for token in sorted(set(roles.values()))]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": kind, "model_max_length": max_length, **roles}
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", roles)


def _wrap(tokenizer: Tokenizer, template: str) -> None:
    marks = [part for part in template.split() if part != "$A"]
    tokenizer.post_processor = TemplateProcessing(
        single=template,
        pair=f"{template} {template.replace('$A', '$B')}",
        special_tokens=[(mark, tokenizer.token_to_id(mark)) for mark in marks],
    )


def unigram(vocab: int) -> Tokenizer:
    """XLM-RoBERTa's kind: sentencepiece's unigrams of at most `vocab` tokens; `<s> $A </s>`."""
    specials = ("<s>", "<pad>", "</s>", "<unk>")
    counts = Counter(f"▁{word}" for line in _CORPUS for word in line.split())
    letters = sorted({"▁", *(chr(code) for code in range(33, 127))})
    words = sorted(counts.keys() - set(letters), key=lambda word: (-counts[word], word))
    scored = [*((each, -8.0) for each in letters), *((each, -4.0) for each in words)]
    pieces = [*((each, 0.0) for each in specials), *scored][:vocab]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.add_special_tokens(list(specials))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace()
    _wrap(tokenizer, "<s> $A </s>")
    return tokenizer
