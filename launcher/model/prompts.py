"""What clients are to put before texts: `config_sentence_transformers.json`.

sentence-transformers puts a prompt before a text in the caller's process. A server sees the text
that was sent and nothing else, so prompts are for clients: to be told, never applied here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.model.checkpoint import SIMILARITIES, Prompts
from launcher.model.files import broken, read_json_object

if TYPE_CHECKING:
    from pathlib import Path

FILE = "config_sentence_transformers.json"


def read_prompts(folder: Path) -> Prompts | None:
    """The prompts and the similarity that the checkpoint in `folder` names; None without a file.

    Raises:
        QlaunchError: `model_corrupt` (exit 2): prompts that are no texts, a default prompt that
            there is not. sentence-transformers refuses these too.
    """
    path = folder / FILE
    if not path.exists():
        return None
    config = read_json_object(path)
    named = _named(path, config)
    default = config.get("default_prompt_name")
    if default is not None and default not in (*named, "query", "document"):
        listed = ", ".join(named) or "none"
        raise broken(
            path,
            f"names the default prompt {str(default)[:80]!r}, but has no prompt of that name"
            f" (its prompts: {listed})",
            fix="correct default_prompt_name in that file, or remove it",
        )
    similarity = config.get("similarity_fn_name")
    return Prompts(
        named=named,
        default=default,
        similarity=similarity if similarity in (*SIMILARITIES,) else None,
    )


def _named(path: Path, config: dict[str, Any]) -> dict[str, str]:
    said = config.get("prompts")
    if said is None:
        return {}
    if not isinstance(said, dict):
        raise broken(path, "gives prompts as something other than an object of texts")
    for name, prompt in said.items():
        if prompt is not None and not isinstance(prompt, str):
            raise broken(path, f"gives the prompt {name[:80]!r} as something other than a text")
    return {name: prompt or "" for name, prompt in said.items()}
