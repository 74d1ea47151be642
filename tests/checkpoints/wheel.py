"""Wheels that hold a model, well made or broken on purpose."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path


def model_files(model: Path, inside: str) -> dict[str, bytes]:
    """Every file of the folder `model`, by its name below `inside` in a wheel."""
    files = (path for path in sorted(model.rglob("*")) if path.is_file())
    return {f"{inside}/{path.relative_to(model).as_posix()}": path.read_bytes() for path in files}


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    files: Mapping[str, bytes],
    *,
    record: Mapping[str, str] | None = None,
) -> Path:
    """Write a pure Python wheel of `files`; returns its path.

    Args:
        record: digests that RECORD gives instead of the right ones (`sha256=…`, or "" for none).
    """
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    wheel = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    everything = {**files, f"{info}/METADATA": metadata, f"{info}/WHEEL": wheel}
    digests = {entry: _digest(data) for entry, data in everything.items()} | dict(record or {})
    rows = [f"{entry},{digests[entry]},{len(data)}" for entry, data in everything.items()]
    listing = "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, data in {**everything, f"{info}/RECORD": listing}.items():
            archive.writestr(entry, data)
    return path


def _digest(data: bytes) -> str:
    encoded = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"sha256={encoded}"
