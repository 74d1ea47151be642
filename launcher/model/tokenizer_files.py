"""Small files beside a tokenizer that transformers or SGLang read, and end where they cannot."""

from __future__ import annotations

from pathlib import Path

from launcher.errors import QlaunchError
from launcher.model.files import broken, check_stand_in, read_bytes, read_json, read_json_object


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
    check_stand_in(path, data)
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
