"""qlaunch: take a bare machine to a verified embedding endpoint on SGLang."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from launcher.api import embed as embed

__version__ = "0.1.0"
__all__ = ["__version__", "embed"]


def __getattr__(name: str) -> object:
    """`embed`, imported when it is first used: the command line does without it."""
    if name == "embed":
        from launcher.api import embed

        return embed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
