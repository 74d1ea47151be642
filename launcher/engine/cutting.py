"""Which SGLang cuts vectors to fewer `dimensions`, and what it must be told. Light."""

from __future__ import annotations

import json
from typing import Any, Final

OVERRIDE: Final = "json-model-override-args"
"""Engine option whose JSON object is laid over the checkpoint's config.json."""
SINCE: Final = "0.5.6"
"""First SGLang that cuts vectors (layers/pooler.py cuts before it normalises)."""


def overrides_in(value: str) -> dict[str, Any] | None:
    """The object in a value of `OVERRIDE`, read as SGLang reads it; None: it is no JSON object."""
    try:
        said = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def cuts_vectors(version: str) -> bool:
    """Whether an SGLang of this version cuts vectors of a model that it knows to allow it."""
    from packaging.version import Version

    return Version(version) >= Version(SINCE)
