"""Whether an environment still holds what its install put in: a look at its folders, no import.

The marker of an install says that it was whole once. Folders may have been deleted since, or a pip
that somebody ran by hand was interrupted: it takes the folders of a package away, then what it
noted of it. Each package's own list (`RECORD`) is compared with what is there, two folders deep;
for an engine of 120 packages that reads 4 MB, and starts nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

from launcher.engine.release import Engine
from launcher.engine.releases import LOCKS
from launcher.linux.files import read_bounded

_RECORD_BYTES: Final = 32 * 1024 * 1024
"""PyTorch's, the longest, has some 2 MB."""
_TOOLS: Final = frozenset({"pip", "setuptools", "wheel"})
"""What an environment needs to be made, and not to serve."""
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")


def missing(engine: Engine, *, current: bool) -> str | None:
    """The first thing that is missing from an environment of ours, in words; None if it is whole.

    Args:
        engine: installed; one in an environment of the user's own is not judged.
        current: whether it was made of the packages that the release lists today; only then must
            each of them be there.
    """
    if engine.root is None:
        return None
    wanted = _wanted(engine) if current else frozenset({"sglang", "torch"})
    return missing_in(engine.root, wanted)


def missing_in(root: Path, wanted: frozenset[str]) -> str | None:
    """The same of any environment of ours.

    Args:
        root: its folder.
        wanted: packages that must be there, by their names as indexes compare them.
    """
    try:
        place, there = _site_packages(root)
        noted = _noted(there)
        if (absent := min(wanted - noted.keys(), default=None)) is not None:
            return f"the package {absent} is gone from {place}"
        for name, info in sorted(noted.items()):
            if name not in _TOOLS and (path := _lost(place, info, there)) is not None:
                return f"{path} is gone, which is part of {name}"
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    except ValueError as error:  # a RECORD that is no text, or endless
        return str(error)
    return None


def _site_packages(root: Path) -> tuple[Path, frozenset[str]]:
    """Where the packages are, and the names in it."""
    place = next(root.glob("lib/python3.*/site-packages"), root / "lib/python3/site-packages")
    return place, frozenset(os.listdir(place))  # noqa: PTH208 - names only


def _noted(there: Collection[str]) -> dict[str, str]:
    """Folders of pip's notes by the package's name; `~…` is what an interrupted pip left."""
    infos = (name for name in there if name.endswith(".dist-info") and name[0] != "~")
    return {_normal(name.split("-", 1)[0]): name for name in infos}


def _wanted(engine: Engine) -> frozenset[str]:
    release = engine.release
    lines = list(release.requirements)
    if release.lock:
        lines += (LOCKS / release.lock).read_text("utf-8").splitlines()
    return packages(lines)


def packages(lines: Iterable[str]) -> frozenset[str]:
    """Names of the packages that requirements or a lock put into every environment."""
    # What is for some machines only need not be here.
    names = (_NAME.match(line) for line in lines if ";" not in line and line[:1] not in "# -")
    return frozenset(_normal(name[0]) for name in names if name)


def _normal(name: str) -> str:
    """As indexes compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _lost(place: Path, info: str, there: Collection[str]) -> Path | None:
    """The first file or folder that a package's list names, and that is not there."""
    record = place / info / "RECORD"
    text = read_bounded(record, _RECORD_BYTES).decode("utf-8", "replace")
    for path in dict.fromkeys(_outlines(text)):
        top, _, below = path.partition("/")
        if top not in there or (below and not (place / path).is_dir()):
            return place / path
    return None


def _outlines(record: str) -> Iterator[str]:
    """Of each file in a list: itself where it lies in no folder, else the upper two of its folders.

    Scripts, which lie elsewhere, and bytecode, which may be deleted and comes again, are left out.
    """
    for line in record.splitlines():
        path = line.removeprefix('"')
        if path.startswith(("../", "/")) or "__pycache__" in path:
            continue
        top, _, below = path.partition("/")
        if not below:
            yield top.partition(",")[0]
            continue
        second, _, deeper = below.partition("/")
        yield f"{top}/{second}" if deeper else top
