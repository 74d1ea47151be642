"""A wheel of this very installation: its files again, in the form that pip installs.

There may be no index that has this version and no checkout to build it from, but all that a wheel
holds is here: the package, the profiles, and the metadata beside them.
"""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

PACKAGE: Final = "qlaunch"
_TAG: Final = "py3-none-any"
_METADATA: Final = ("METADATA", "entry_points.txt")
_WHEN: Final = (1980, 1, 1, 0, 0, 0)
"""Of every file: the same installation gives the same bytes."""
_LAUNCHER: Final = Path(__file__).resolve().parents[1]


def write_own_wheel(folder: Path, profiles: Path) -> Path:
    """Write `qlaunch-VERSION-py3-none-any.whl` to `folder`; returns its path.

    Args:
        folder: where to; must be there.
        profiles: the shipped profiles, which a checkout keeps outside the package.

    Raises:
        OSError: the disk is full, or a file cannot be read.
    """
    version = metadata.version(PACKAGE)
    path = folder / f"{PACKAGE}-{version}-{_TAG}.whl"
    information = f"{PACKAGE}-{version}.dist-info"
    rows = []
    part = path.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (*sorted(_content(profiles)), *_information(information)):
            _add(archive, name, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows.append(f"{name},sha256={digest},{len(data)}\n")
        record = f"{information}/RECORD"
        _add(archive, record, "".join((*rows, f"{record},,\n")).encode())
    part.replace(path)
    return path


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, _WHEN)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o100644 << 16
    archive.writestr(entry, data)


def _content(profiles: Path) -> Iterator[tuple[str, bytes]]:
    """Files of the package, profiles among them, by their names in a wheel."""
    for root, prefix in ((_LAUNCHER, "launcher"), (profiles, "launcher/_profiles")):
        for at, folders, names in os.walk(root):
            skipped = ("__pycache__", "_profiles") if root == _LAUNCHER else ("__pycache__",)
            folders[:] = [name for name in folders if name not in skipped]
            for name in names:
                path = Path(at) / name
                yield f"{prefix}/{path.relative_to(root).as_posix()}", path.read_bytes()


def _information(folder: str) -> Iterator[tuple[str, bytes]]:
    installed = metadata.distribution(PACKAGE)
    for name in _METADATA:
        yield f"{folder}/{name}", (installed.read_text(name) or "").encode()
    wheel = f"Wheel-Version: 1.0\nGenerator: {PACKAGE}\nRoot-Is-Purelib: true\nTag: {_TAG}\n"
    yield f"{folder}/WHEEL", wheel.encode()


def requirements() -> tuple[str, ...]:
    """What qlaunch depends on here, all the way down: `name==version`, sorted; no extras.

    Raises:
        importlib.metadata.PackageNotFoundError: something that is required is not installed.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, str] = {}
    asked = [(PACKAGE, frozenset[str]())]
    seen: set[tuple[str, frozenset[str]]] = set()
    while asked:
        name, extras = asked.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        installed = metadata.distribution(name)
        if name != PACKAGE:
            found[canonicalize_name(name)] = installed.version
        for line in installed.requires or ():
            needed = Requirement(line)
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in (extras or {""})):
                asked.append((canonicalize_name(needed.name), frozenset(needed.extras)))
    return tuple(f"{name}=={version}" for name, version in sorted(found.items()))


def installed_bytes(pinned: tuple[str, ...]) -> int:
    """What these packages take where they are installed: more than their wheels do."""
    files = [
        file
        for line in (*pinned, PACKAGE)
        for file in metadata.files(line.partition("==")[0]) or ()
    ]
    return sum(file.size or 0 for file in files)
