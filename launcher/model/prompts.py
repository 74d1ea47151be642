"""What clients are to put before texts: `config_sentence_transformers.json`.

sentence-transformers puts a prompt before a text in the caller's process. A server sees the text
that was sent and nothing else, so prompts are for clients: to be told, never applied here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.model.files import broken, read_json_object
from launcher.model.types import SIMILARITIES, Prompts

if TYPE_CHECKING:
    from pathlib import Path

FILE = "config_sentence_transformers.json"
_OTHER_KINDS = {
    "CrossEncoder": "a cross-encoder: it scores pairs of texts and makes no vectors",
    "MultiVectorEncoder": "a multi-vector encoder: it makes one vector a token",
    "SparseEncoder": "a sparse encoder: it makes weights of words, not dense vectors",
}
"""Models of sentence-transformers 5 and later that are no embedding models, by `model_type`."""


def read_prompts(folder: Path) -> Prompts | None:
    """The prompts and the similarity that the checkpoint in `folder` names; None without a file.

    Raises:
        QlaunchError: exit 2: `model_corrupt` (prompts that are no texts, a default prompt that
            there is not: sentence-transformers refuses these too), `model_unsupported` (a model
            that makes no dense vectors).
    """
    path = folder / FILE
    if not path.exists():
        return None
    config = read_json_object(path)
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in _OTHER_KINDS:
        why = f"says the model is {_OTHER_KINDS[kind]}"
        raise broken(path, why, code="model_unsupported", fix="serve an embedding model")
    named = _named(path, config)
    default = config.get("default_prompt_name")
    if default is not None and default not in named and default not in ("query", "document"):
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
        similarity=similarity if similarity in SIMILARITIES else None,
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
