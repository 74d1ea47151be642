"""Whether a service's engine cuts vectors on request (Matryoshka), as SGLang decides it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from launcher.documents.plan import Plan
from launcher.engine.cutting import OVERRIDE, cuts_vectors, overrides_in
from launcher.gateway.cutting import Cuts
from launcher.linux.files import read_bounded

_CONFIG: Final = "config.json"
_LIMIT: Final = 4 << 20
_SIZES: Final = "matryoshka_dimensions"
_FLAG: Final = "is_matryoshka"


def cuts_of(plan: Plan) -> Cuts | None:
    """How the engine of a plan cuts vectors; None: it refuses to, or nobody knows.

    The model's configuration says so, or what the plan overrides in it.
    """
    if not cuts_vectors(plan.engine.version) or (plan.guard is not None and not plan.guard.cut):
        return None
    facts = {**_config(Path(plan.model_path)), **_overridden(plan.engine.argv)}
    sizes = facts.get(_SIZES)
    if not sizes and not facts.get(_FLAG):
        return None
    listed = isinstance(sizes, list) and all(type(size) is int for size in sizes)
    if sizes and not listed:
        return None
    return Cuts(normalize=plan.expectation.normalize, sizes=frozenset(sizes) if sizes else None)


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        return _object(read_bounded((folder / _CONFIG).resolve(), _LIMIT))
    except (OSError, ValueError):
        return {}


def _overridden(argv: tuple[str, ...]) -> Mapping[str, Any]:
    """The last override of the model's configuration, which counts."""
    option, value = f"--{OVERRIDE}", ""
    for word, after in zip(argv, (*argv[1:], ""), strict=True):
        if word == option:
            value = after
        elif word.startswith(f"{option}="):
            value = word.partition("=")[2]
    return overrides_in(value) or {}


def _object(text: bytes) -> Mapping[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (ValueError, RecursionError):
        return {}
