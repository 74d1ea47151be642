"""Whether the engine will cut texts into the tokens that the checkpoint's files mean.

transformers 5, which the engines use, takes only the vocabulary from tokenizer.json for most of its
tokenizer classes and builds the rest anew: a normalizer or pre-tokenizer of another kind is lost
without a word, and with it the vectors. transformers 4, with which most models were trained, took
them as they stand in the file. Where the two differ a checkpoint is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec

from launcher.errors import QlaunchError
from launcher.model.files import broken, missing, read_bytes, read_json_object
from launcher.yamlfile import shown

_SETS: Final = (
    ("tokenizer.json",),
    ("vocab.txt",),
    ("vocab.json", "merges.txt"),
)
"""Any one of these sets of files makes a tokenizer."""
_SENTENCEPIECE: Final = ("sentencepiece.bpe.model", "tokenizer.model", "spiece.model")


@dataclass(frozen=True)
class _Built:
    """What a tokenizer class of transformers 5 puts in the place of a tokenizer.json's parts."""

    model: str
    normalizers: frozenset[str | None]
    pre_tokenizers: frozenset[str | None]


_WORDPIECE = _Built("WordPiece", frozenset({"BertNormalizer"}), frozenset({"BertPreTokenizer"}))
_BYTES = _Built("BPE", frozenset({None}), frozenset({"ByteLevel"}))
_UNIGRAM = _Built(
    "Unigram",
    frozenset({None, "Precompiled", "Replace", "Strip"}),
    frozenset({"Metaspace", "WhitespaceSplit"}),
)
_BUILT: Final[Mapping[str, _Built]] = MappingProxyType({
    "BertTokenizer": _WORDPIECE,
    "DistilBertTokenizer": _WORDPIECE,
    "ElectraTokenizer": _WORDPIECE,
    "RobertaTokenizer": _BYTES,
    "XLMRobertaTokenizer": _UNIGRAM,
    "CamembertTokenizer": _UNIGRAM,
})  # fmt: skip
_BY_MODEL_TYPE: Final[Mapping[str, str]] = MappingProxyType({
    "bert": "BertTokenizer",
    "ernie": "BertTokenizer",
    "electra": "BertTokenizer",
    "distilbert": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "camembert": "CamembertTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
})  # fmt: skip
"""The class that transformers takes where tokenizer_config.json names none."""


class _Model(msgspec.Struct):
    type: str | None = None
    vocab: msgspec.Raw = msgspec.Raw(b"null")


class _Added(msgspec.Struct):
    id: int
    content: str


class _File(msgspec.Struct):
    """The parts of a tokenizer.json that are looked at."""

    model: _Model
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None
    added_tokens: list[_Added] = msgspec.field(default_factory=list)


def check_tokenizer(folder: Path, *, model_type: str, rows: int) -> None:
    """Refuse a tokenizer that is absent, rebuilt as another one, or larger than the model.

    Args:
        folder: of the checkpoint.
        model_type: as config.json gives it.
        rows: of the embedding table.

    Raises:
        QlaunchError: `model_incomplete`, `model_corrupt` or `model_unsupported`; exit 2.
    """
    if not any(all((folder / name).exists() for name in names) for names in _SETS):
        raise _none(folder)
    config_path = folder / "tokenizer_config.json"
    config = read_json_object(config_path) if config_path.exists() else {}
    if config.get("auto_map"):
        raise _code(config_path, "names a tokenizer of the checkpoint's own code (auto_map)")
    path = folder / "tokenizer.json"
    if not path.exists():
        return
    found = _read(path)
    _check_size(path, found, rows)
    _check_class(path, found, config, model_type)


def _none(folder: Path) -> QlaunchError:
    piece = next((name for name in _SENTENCEPIECE if (folder / name).exists()), None)
    if piece is None:
        return missing(folder, "has no tokenizer (tokenizer.json or a vocabulary)")
    return broken(
        folder / piece,
        "is the only tokenizer, and reading it needs packages that an engine has not; there is no"
        " tokenizer.json",
        code="model_unsupported",
        fix="write a tokenizer.json beside it: AutoTokenizer.from_pretrained(folder)"
        ".save_pretrained(folder), where transformers, sentencepiece and protobuf are installed",
    )


def _read(path: Path) -> _File:
    data = read_bytes(path)
    if not data.strip():
        raise missing(path, "is empty")
    try:
        return msgspec.json.decode(data, type=_File)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise missing(
            path, f"is cut short or is not a tokenizer file: {shown(str(error))}"
        ) from error


def _check_size(path: Path, found: _File, rows: int) -> None:
    """Refuse a vocabulary beyond the embedding table.

    Tokens that were added without resizing are let through: a text that holds one is refused by the
    guard (qlaunch_guard/tokens.py), and every other text is right. Those that the post-processor
    puts around every text must have a row.
    """
    vocabulary = msgspec.json.decode(found.model.vocab)
    ids: list[int] = []
    if isinstance(vocabulary, dict):
        ids = [number for number in vocabulary.values() if type(number) is int]
    elif isinstance(vocabulary, list):
        ids = [len(vocabulary) - 1]
    around = msgspec.json.encode(found.post_processor).decode()
    ids += [
        added.id
        for added in found.added_tokens
        if msgspec.json.encode(added.content).decode() in around
    ]
    if not ids or max(ids) < rows:
        return
    raise broken(
        path,
        f"gives token ids up to {max(ids)}, but the model's embedding table has {rows} rows",
        fix="take tokenizer and weights from the same model, or resize the embeddings",
    )


def _check_class(path: Path, found: _File, config: Mapping[str, Any], model_type: str) -> None:
    """Refuse what the tokenizer's class would build anew as something else."""
    said = config.get("tokenizer_class")
    name = said if isinstance(said, str) else _BY_MODEL_TYPE.get(model_type, "")
    built = _BUILT.get(name.removesuffix("Fast"))
    if built is None:
        return
    named = name.removesuffix("Fast")
    differ = [
        (what, ", ".join(sorted(str(kind) for kind in kinds - allowed)))
        for what, kinds, allowed in (
            ("model", frozenset({found.model.type or built.model}), frozenset({built.model})),
            ("normalizer", _kinds(found.normalizer, "normalizers"), built.normalizers),
            ("pre_tokenizer", _kinds(found.pre_tokenizer, "pretokenizers"), built.pre_tokenizers),
        )
        if kinds - allowed
    ]
    if found.post_processor is None:
        differ.append(("post_processor", "none"))
    if not differ:
        return
    what, kind = differ[0]
    raise broken(
        path,
        f"has the {what} {kind}, in whose place {named} of transformers 5 puts its own, so that"
        " texts would be cut into other tokens",
        code="model_unsupported",
        fix="if the file is right as it stands, write PreTrainedTokenizerFast as tokenizer_class in"
        " tokenizer_config.json",
    )


def _kinds(part: Mapping[str, Any] | None, inside: str) -> frozenset[str | None]:
    """Types of a part, a Sequence opened."""
    if part is None:
        return frozenset({None})
    if part.get("type") != "Sequence":
        return frozenset({str(part.get("type"))})
    parts = part.get(inside)
    return frozenset(
        str(each.get("type"))
        for each in (parts if isinstance(parts, list) else [])
        if isinstance(each, dict)
    )


def _code(path: Path, why: str) -> QlaunchError:
    return broken(
        path,
        f"{why}, which qlaunch does not run",
        code="model_unsupported",
        fix="serve a model that transformers knows by itself",
    )
