"""Names for models that no card names: from their folder or their source. Pure."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from launcher.model.checkpoint import Source

LONGEST = 64


def folder_name(folder: Path) -> str:
    """The model's name by its folder; in a hub's cache that is the repository's name.

    The Hugging Face hub keeps `models--ORG--NAME/snapshots/COMMIT`; ModelScope writes the dots of
    a name as `___`.
    """
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.rpartition("--")[2]
    return folder.name.replace("___", ".")


def served_name(folder: Path) -> str:
    """What clients call a model that no card names: its folder's name, as the engine takes it.

    SGLang reads what follows a colon as a LoRA adapter, and its parser reads a word that starts
    with a dash as an option; a word in braces is one that a start fills in (`{port}`).
    """
    return re.sub("[:{}]", "-", folder_name(folder)).strip().lstrip("-") or "model"


def service_name(source: Source) -> str:
    """A service's name for a model: lower-case letters, digits, `.`, `_`, `-`, 64 at most."""
    name = source.location.rpartition("/")[2]
    if source.kind == "path":
        name = folder_name(Path(source.location))
    bare = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    plain = re.sub(r"[^a-z0-9._-]+", "-", bare.lower())
    return plain.strip("._-")[:LONGEST].rstrip("._-") or "model"
