"""Whether the engine will cut texts into the tokens that the checkpoint's files mean."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from launcher.errors import QlaunchError
from launcher.model.files import broken, check_text, missing, read_bytes, read_json_object
from launcher.model.rebuilt import (
    TokenizerFile,
    check_known,
    check_rebuilt,
    check_vocabulary,
    class_name,
)
from launcher.model.tokenizer_files import check_parts, check_settings, check_side_files
from launcher.yaml_reader import shown

_SETS: Final = (
    ("tokenizer.json",),
    ("vocab.txt",),
    ("vocab.json", "merges.txt"),
)
"""Any one of these sets of files makes a tokenizer."""
_ROLES: Final = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip
_SENTENCEPIECE: Final = ("sentencepiece.bpe.model", "tokenizer.model", "spiece.model")


def check_tokenizer(folder: Path, config: Mapping[str, Any], *, model_type: str, rows: int) -> None:
    """Refuse a tokenizer that is absent, rebuilt as another one, or larger than the model.

    Args:
        folder: of the checkpoint.
        config: content of config.json.
        model_type: as config.json gives it.
        rows: of the embedding table.

    Raises:
        QlaunchError: `model_incomplete`, `model_corrupt` or `model_unsupported`; exit 2.
    """
    if not any(all((folder / name).exists() for name in names) for names in _SETS):
        raise _none(folder)
    _check_settings(folder / "tokenizer_config.json")
    check_side_files(folder)
    name = class_name(folder, config, model_type)
    check_known(folder, name)
    path = folder / "tokenizer.json"
    if not path.exists():
        check_vocabulary(folder, name, rows)
        return
    found = _read(path)
    check_parts(path, found)
    _check_size(path, found, rows)
    check_rebuilt(folder, found, name)


def _check_settings(path: Path) -> None:
    """Refuse a tokenizer_config.json that the engine would not read, or only run."""
    said = read_json_object(path) if path.exists() else {}
    if said.get("auto_map"):
        raise _code(path, "names a tokenizer of the checkpoint's own code (auto_map)")
    limit = said.get("model_max_length")
    if limit is not None and type(limit) not in (int, float):
        raise broken(path, f"gives model_max_length as {str(limit)[:40]!r}, not as a number")
    check_settings(path, said)
    _check_roles(path, said)


def _check_roles(path: Path, said: Mapping[str, Any]) -> None:
    """Refuse a token that is an object without its type, which transformers does not read."""
    other = path.with_name("special_tokens_map.json")
    above = read_json_object(other) if other.exists() else {}
    for role in _ROLES:
        token = said.get(role)
        if isinstance(token, dict) and token.get("__type") != "AddedToken" and role not in above:
            raise broken(
                path,
                f"gives {role} as an object that is not marked as an AddedToken",
                fix=f"write {role} as a text in that file",
            )


def _none(folder: Path) -> QlaunchError:
    piece = next((name for name in _SENTENCEPIECE if (folder / name).exists()), None)
    if piece is None:
        return missing(folder, "has no tokenizer (tokenizer.json or a vocabulary)")
    return broken(
        folder / piece,
        "is the only tokenizer, and reading it needs packages that an engine does not have;"
        " there is no tokenizer.json",
        code="model_unsupported",
        fix="write a tokenizer.json beside it: AutoTokenizer.from_pretrained(folder)"
        ".save_pretrained(folder), where transformers, sentencepiece and protobuf are installed",
    )


def _read(path: Path) -> TokenizerFile:
    data = read_bytes(path)
    if not data.strip():
        raise missing(path, "is empty")
    check_text(path, data)
    try:
        return msgspec.json.decode(data, type=TokenizerFile)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise missing(
            path, f"is cut short or is not a tokenizer file: {shown(str(error))}"
        ) from error


def _check_size(path: Path, found: TokenizerFile, rows: int) -> None:
    """Refuse a vocabulary beyond the embedding table.

    Tokens that were added without resizing are let through: a text that holds one is refused by the
    guard (qlaunch_guard/tokens.py), and every other text is right. Those that the post-processor
    puts around every text must have a row.
    """
    vocabulary = msgspec.json.decode(found.model.vocab)
    ids: list[int] = []
    if isinstance(vocabulary, dict):
        ids = list(vocabulary.values())
        odd = next((each for each in ids if type(each) is not int or each < 0), None)
        if odd is not None:
            raise broken(path, f"gives a token the id {str(odd)[:40]!r}")
    elif isinstance(vocabulary, list):
        ids = [len(vocabulary) - 1]
    else:
        raise broken(path, "holds no vocabulary")
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


def _code(path: Path, why: str) -> QlaunchError:
    return broken(
        path,
        f"{why}, which qlaunch does not run",
        code="model_unsupported",
        fix="serve a model that transformers knows by itself",
    )
