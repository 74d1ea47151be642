"""What transformers and its tokenizers library refuse of a tokenizer's files once they are read.

Each is refused here instead, before anything starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from launcher.errors import QlaunchError
from launcher.model.files import broken, check_pointer, read_bytes, read_json, read_json_object
from launcher.model.rebuilt import TokenizerFile
from launcher.yaml_reader import shown

_VERSION: Final = "1.0"
_SIDES: Final = ("padding_side", "truncation_side")
_FLAGS: Final = ("do_lower_case", "tokenize_chinese_chars")
_TYPES: Final[Mapping[str, tuple[type, ...]]] = MappingProxyType({
    "extra_special_tokens": (list, dict, type(None)),
    "additional_special_tokens": (list, type(None)),
    "added_tokens_decoder": (dict, type(None)),
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
"""Parts of a tokenizer.json: where a Sequence keeps its own, and the kinds there are."""


def check_parts(path: Path, found: TokenizerFile) -> None:
    """Refuse a tokenizer.json with parts that the tokenizers library does not know.

    Raises:
        QlaunchError: `model_corrupt`, exit 2.
    """
    if found.version not in (None, _VERSION):
        raise broken(path, f"is of version {shown(str(found.version))}, not {_VERSION}")
    limit = (found.truncation or {}).get("max_length", 0)
    if type(limit) is not int or limit < 0:
        raise broken(path, f"truncates to {str(limit)[:40]!r} tokens")
    for name, (inside, known) in _KNOWN.items():
        for kind in _kinds(getattr(found, name), inside):
            if kind not in known:
                raise broken(path, f"has the {name} {shown(kind)}, which tokenizers does not know")


def _kinds(part: Mapping[str, Any] | None, inside: str) -> Iterator[str]:
    if part is None:
        return
    kind = str(part.get("type"))
    yield kind
    parts = part.get(inside) if kind == "Sequence" else None
    for each in parts if isinstance(parts, list) else ():
        if isinstance(each, dict):
            yield from _kinds(each, inside)


def check_settings(path: Path, said: Mapping[str, Any]) -> None:
    """Refuse values of tokenizer_config.json (at `path`) that transformers does not read.

    Raises:
        QlaunchError: `model_corrupt`, exit 2.
    """
    for key in _SIDES:
        if said.get(key, "right") not in ("left", "right"):
            raise _wrong(path, key, said[key], "as left or right")
    for key in _FLAGS:
        if not isinstance(said.get(key, False), bool):
            raise _wrong(path, key, said[key], "as true or false")
    for key, types in _TYPES.items():
        if not isinstance(said.get(key), types):
            raise _wrong(path, key, said[key], "as a list or an object")
    for token in said.get("additional_special_tokens") or ():
        if not isinstance(token, str | dict):
            raise _wrong(path, "additional_special_tokens", token, "as texts")
    _check_added(path, said.get("added_tokens_decoder") or {})
    templates = said.get("chat_template")
    for each in templates if isinstance(templates, list) else ():
        if not isinstance(each, dict) or not {"name", "template"} <= each.keys():
            raise _wrong(path, "chat_template", each, "as a name and a template")


def _check_added(path: Path, added: Mapping[str, Any]) -> None:
    for number, token in added.items():
        content = token.get("content") if isinstance(token, dict) else None
        if not number.isdecimal() or not isinstance(content, str):
            raise _wrong(path, "added_tokens_decoder", number, "as ids and their tokens")


def _wrong(path: Path, key: str, said: object, wanted: str) -> QlaunchError:
    return broken(
        path,
        f"gives {key} as {str(said)[:40]!r}, not {wanted}",
        fix=f"correct {key} in that file; transformers does not read it as it is",
    )


def check_side_files(folder: Path) -> None:
    """Refuse small files beside a tokenizer that transformers or SGLang read and cannot.

    Raises:
        QlaunchError: `model_corrupt`, exit 2.
    """
    added = folder / "added_tokens.json"
    if added.is_file():
        for token, number in read_json_object(added).items():
            if type(number) is not int or number < 0:
                raise broken(added, f"gives {token[:40]!r} the id {str(number)[:40]!r}")
    for path in (folder / "chat_template.jinja", *folder.glob("additional_chat_templates/*.jinja")):
        if path.is_file():
            _check_text(path)
    _check_generation(folder / "generation_config.json")


def _check_text(path: Path) -> None:
    data = read_bytes(path)
    check_pointer(path, data)
    try:
        data.decode()
    except UnicodeDecodeError as error:
        why = "is not in UTF-8, in which transformers reads a chat template"
        raise broken(path, why, fix="remove it: embeddings need no chat template") from error


def _check_generation(path: Path) -> None:
    """Broken JSON is passed over by SGLang; another value than an object ends it."""
    if not path.is_file():
        return
    try:
        said = read_json(path)
    except QlaunchError:
        return
    if not isinstance(said, dict):
        fix = "remove it: embeddings do not need it"
        raise broken(path, "does not hold a JSON object", fix=fix)
