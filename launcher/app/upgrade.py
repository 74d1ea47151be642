"""How this very installation of qlaunch is brought to a newer version."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

PACKAGE: Final = "qlaunch"


@dataclass(frozen=True)
class Way:
    """How qlaunch itself is upgraded here."""

    how: str
    """pipx, uv, source, pip."""
    command: str
    """What to type."""


def way(prefix: Path = Path(sys.prefix), python: str = sys.executable) -> Way:
    """The command that upgrades qlaunch in the environment at `prefix`."""
    if (prefix / "pipx_metadata.json").exists():
        return Way("pipx", f"pipx upgrade {PACKAGE}")
    if (prefix / "uv-receipt.toml").exists():
        return Way("uv", f"uv tool upgrade {PACKAGE}")
    if (source := _source()) is not None:
        return Way("source", f"git -C {source} pull && make -C {source} setup")
    return Way("pip", f"{python} -m pip install --upgrade {PACKAGE}")


def _source() -> str | None:
    """The checkout that an editable install runs from; None for any other."""
    try:
        text = metadata.distribution(PACKAGE).read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return str(Path(__file__).parents[2])
    if text is None:
        return None
    found = json.loads(text)
    url = str(found.get("url", ""))
    editable = bool(found.get("dir_info", {}).get("editable"))
    return url.removeprefix("file://") if editable and url.startswith("file://") else None
