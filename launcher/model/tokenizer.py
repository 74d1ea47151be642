"""Whether the engine will cut texts into the tokens that the checkpoint's files mean."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from launcher.errors import QlaunchError
from launcher.model.files import broken, missing, read_json_object
from launcher.model.rebuilt import (
    check_known,
    check_rebuilt,
    check_vocabulary,
    chosen,
    is_alike,
    is_mended,
)
from launcher.model.settings import read_settings
from launcher.model.tokenizer_files import check_side_files
from launcher.model.tokenizer_json import TokenizerFile, ids_of, read_tokenizer
from launcher.model.tokenizer_options import check_options, read_options

_SETS: Final = (
    ("tokenizer.json",),
    ("vocab.txt",),
    ("vocab.json", "merges.txt"),
)
"""Any one of these sets of files makes a tokenizer."""
_SENTENCEPIECE: Final = ("sentencepiece.bpe.model", "tokenizer.model", "spiece.model")


def check_tokenizer(folder: Path, config: Mapping[str, Any], *, model_type: str, rows: int) -> bool:
    """Refuse a tokenizer that is absent, rebuilt as another one, or larger than the model.

    Args:
        folder: of the checkpoint.
        config: content of config.json.
        model_type: as config.json gives it.
        rows: of the embedding table.

    Returns:
        Whether SGLang, without the plugin, changes what transformers makes of it.

    Raises:
        QlaunchError: `model_incomplete`, `model_corrupt` or `model_unsupported`; exit 2.
    """
    if not any(all((folder / name).exists() for name in names) for names in _SETS):
        raise _none(folder)
    options = read_options(folder)
    if options.said.get("auto_map"):
        raise _code(
            options.place("auto_map"), "names a tokenizer of the checkpoint's own code (auto_map)"
        )
    check_options(options)
    check_side_files(folder)
    choice = chosen(folder, config, model_type)
    check_known(folder, choice.name)
    path = folder / "tokenizer.json"
    if not path.exists():
        check_vocabulary(options, choice.name, rows)
        return False
    found = read_tokenizer(path)
    ids = ids_of(path, found)
    _check_size(path, found, ids, rows)
    check_rebuilt(options, found, choice, ids)
    return is_mended(found, choice)


def is_read_alike(folder: Path) -> bool:
    """Whether tokenizer.json by itself makes the tokens that an engine makes of a text.

    An engine has transformers' tokenizer: options of tokenizer_config.json count over the file, and
    sentence_bert_config.json may have texts put in lower case before.
    """
    try:
        if read_settings(folder).lower_case:
            return False
        config = read_json_object(folder / "config.json")
        choice = chosen(folder, config, str(config.get("model_type")))
        return is_alike(read_options(folder), read_tokenizer(folder / "tokenizer.json"), choice)
    except QlaunchError:
        return False


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


def _check_size(path: Path, found: TokenizerFile, ids: Mapping[str, int], rows: int) -> None:
    """Refuse a vocabulary beyond the embedding table.

    Tokens that were added without resizing are let through: a text that holds one is refused by the
    guard (qlaunch_guard/tokens.py), and every other text is right. Those that the post-processor
    puts around every text must have a row.
    """
    around = msgspec.json.encode(found.post_processor).decode()
    numbers = [*ids.values()] + [
        added.id
        for added in found.added_tokens
        if msgspec.json.encode(added.content).decode() in around
    ]
    if not numbers or max(numbers) < rows:
        return
    raise broken(
        path,
        f"gives token ids up to {max(numbers)}, but the model's embedding table has {rows} rows",
        fix="take tokenizer and weights from the same model, or resize the embeddings",
    )


def _code(path: Path, why: str) -> QlaunchError:
    return broken(
        path,
        f"{why}, which qlaunch does not run",
        code="model_unsupported",
        fix="serve a model that transformers knows by itself",
    )
