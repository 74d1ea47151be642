"""tokenizer.json by itself: what the tokenizers library refuses when it reads it.

SGLang has the library read the whole file, also where transformers then builds another tokenizer of
its vocabulary: what is refused there is refused here, before anything starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

import msgspec

from launcher.model.files import broken, check_text, missing, read_bytes
from launcher.yaml_reader import shown

Natural = Annotated[int, msgspec.Meta(ge=0)]
Side = Literal["Left", "Right"]


class TokenizerModel(msgspec.Struct):
    """`model`: what is looked at, the vocabulary undecoded."""

    type: Literal["BPE", "WordPiece", "WordLevel", "Unigram"] | msgspec.UnsetType = msgspec.UNSET
    """Files of early releases do not say it."""
    vocab: msgspec.Raw = msgspec.Raw(b"null")
    unk_token: str | None = None
    unk_id: Natural | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    max_input_chars_per_word: Natural | None = None
    dropout: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    fuse_unk: bool | None = None
    byte_fallback: bool | None = None
    ignore_merges: bool | None = None


class Added(msgspec.Struct):
    """A token that was added to the vocabulary."""

    id: Natural
    content: str
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


class Truncation(msgspec.Struct):
    """Where the file says that texts are cut; neither SGLang nor transformers cut there."""

    max_length: Natural
    stride: Natural
    strategy: Literal["LongestFirst", "OnlyFirst", "OnlySecond"]
    direction: Side = "Right"


class Fixed(msgspec.Struct, rename={"length": "Fixed"}):
    """Padding to a length."""

    length: Natural


class Padding(msgspec.Struct):
    """How the file says that texts are filled up; they are not."""

    strategy: Literal["BatchLongest"] | Fixed
    direction: Side
    pad_id: Natural
    pad_type_id: Natural
    pad_token: str
    pad_to_multiple_of: Natural | None = None


class TokenizerFile(msgspec.Struct, forbid_unknown_fields=True):
    """A tokenizer.json, which the library refuses with any other part."""

    model: TokenizerModel
    added_tokens: list[Added]
    version: Literal["1.0"] = "1.0"
    truncation: Truncation | None = None
    padding: Padding | None = None
    decoder: dict[str, Any] | None = None
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None


_NEEDED: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({
    "WordPiece": ("unk_token", "continuing_subword_prefix", "max_input_chars_per_word"),
    "WordLevel": ("unk_token",),
})  # fmt: skip
_KNOWN: Final[Mapping[str, tuple[str, frozenset[str]]]] = MappingProxyType({
    "normalizer": ("normalizers", frozenset({
        "BertNormalizer", "ByteLevel", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt",
        "Precompiled", "Prepend", "Replace", "Sequence", "Strip", "StripAccents",
    })),
    "pre_tokenizer": ("pretokenizers", frozenset({
        "BertPreTokenizer", "ByteLevel", "Delimiter", "CharDelimiterSplit", "Digits", "FixedLength",
        "Metaspace", "Punctuation", "Sequence", "Split", "UnicodeScripts", "Whitespace",
        "WhitespaceSplit",
    })),
    "post_processor": ("processors", frozenset({
        "BertProcessing", "ByteLevel", "RobertaProcessing", "Sequence", "TemplateProcessing",
    })),
    "decoder": ("decoders", frozenset({
        "BPEDecoder", "ByteFallback", "ByteLevel", "CTC", "Fuse", "Metaspace", "Replace",
        "Sequence", "Strip", "WordPiece",
    })),
})  # fmt: skip
"""Where a Sequence of such parts keeps its own, and the kinds there are."""
_BERT: Final = ("clean_text", "handle_chinese_chars", "lowercase", "strip_accents")


def read_tokenizer(path: Path) -> TokenizerFile:
    """What a tokenizer.json says.

    Raises:
        QlaunchError: `model_incomplete` or `model_corrupt`, exit 2.
    """
    data = read_bytes(path)
    if not data.strip():
        raise missing(path, "is empty")
    check_text(path, data)
    try:
        found = msgspec.json.decode(data, type=TokenizerFile)
    except msgspec.ValidationError as error:
        why = f"holds what the tokenizers library does not read: {shown(str(error))}"
        raise broken(path, why) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise missing(
            path, f"is cut short or is not a tokenizer file: {shown(str(error))}"
        ) from error
    _check_parts(path, found)
    return found


def _check_parts(path: Path, found: TokenizerFile) -> None:
    """Refuse parts that the library does not know, or not without what is left out."""
    for name, (inside, known) in _KNOWN.items():
        for part in _opened(getattr(found, name), inside):
            kind = str(part.get("type"))
            if kind not in known:
                raise broken(path, f"has the {name} {shown(kind)}, which tokenizers does not know")
            if kind == "BertNormalizer":
                _check_bert(path, part)
    model = str(found.model.type)
    for key in _NEEDED.get(model, ()):
        if getattr(found.model, key) is None:
            raise broken(path, f"has a {model} model without {key}")


def _opened(part: Mapping[str, Any] | None, inside: str) -> Iterator[Mapping[str, Any]]:
    """A part, and those in it where it is a Sequence."""
    if part is None:
        return
    yield part
    parts = part.get(inside) if part.get("type") == "Sequence" else None
    for each in parts if isinstance(parts, list) else ():
        if isinstance(each, dict):
            yield from _opened(each, inside)


def _check_bert(path: Path, part: Mapping[str, Any]) -> None:
    for key in _BERT:
        said = part.get(key)
        if not isinstance(said, bool) and not (said is None and key == "strip_accents"):
            raise broken(
                path,
                f"gives {key} of its BertNormalizer as {str(said)[:40]!r}, not as true or false",
                fix=f"correct {key} in that file; the tokenizers library does not read it as it is",
            )


def ids_of(path: Path, found: TokenizerFile) -> Mapping[str, int]:
    """Ids by token of the model's own vocabulary.

    Raises:
        QlaunchError: `model_corrupt`, exit 2.
    """
    try:
        vocabulary = msgspec.json.decode(
            found.model.vocab, type=dict[str, Any] | list[tuple[str, float]]
        )
    except ValueError as error:
        raise broken(path, "holds no vocabulary of tokens with their ids or scores") from error
    if isinstance(vocabulary, dict):
        odd = next(
            (each for each in vocabulary.values() if type(each) is not int or each < 0), None
        )
        if odd is not None:
            raise broken(path, f"gives a token the id {str(odd)[:40]!r}")
        return vocabulary
    unknown = found.model.unk_id
    if unknown is not None and unknown >= len(vocabulary):
        raise broken(path, f"gives unk_id {unknown}, and has {len(vocabulary)} tokens")
    return {token: at for at, (token, _) in enumerate(vocabulary)}
