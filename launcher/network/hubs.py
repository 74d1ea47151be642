"""The hubs' addresses, as their client libraries find them."""

from __future__ import annotations

import os


def endpoint(kind: str) -> str:
    """The address of a hub that its library asks, by its own variables and its default.

    Args:
        kind: `hf` or `modelscope`.
    """
    if kind == "hf":
        from huggingface_hub import constants

        return str(constants.ENDPOINT)
    named = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN")
    if named:
        return named if "://" in named else f"https://{named}"
    try:
        from modelscope.hub import constants as theirs
    except ImportError:
        return "https://modelscope"
    return str(getattr(theirs, "DEFAULT_MODELSCOPE_DATA_ENDPOINT", "https://modelscope"))
