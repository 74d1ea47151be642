"""Reading the small files of a checkpoint: bounded, links followed, refusals that name the file."""

from __future__ import annotations

import codecs
import errno
import json
import os
import stat
from typing import TYPE_CHECKING, Any, Final

import msgspec

from launcher.errors import QlaunchError
from launcher.yaml_reader import shown

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MAX_SMALL_FILE = 64 * 1024 * 1024
"""Bytes; the largest tokenizers and shard indexes in use are about a quarter of that."""
POINTER: Final = b"version https://git-lfs"
"""How the text begins that a clone without git-lfs leaves in a file's place."""
_PAGES: Final = (b"<!doctype html", b"<html")
"""How a page begins that was saved in a file's place, in small letters."""


def broken(
    path: Path, why: str, *, code: str = "model_corrupt", fix: str | None = None
) -> QlaunchError:
    """The error for a part of a checkpoint: `code`, exit 2, beginning with the path."""
    return QlaunchError(
        f"{shown(str(path), 400)} {why}",
        code=code,
        fix=fix or "fetch the model again, or copy it completely",
    )


def missing(path: Path, why: str, *, fix: str | None = None) -> QlaunchError:
    """The error for a part that is not there: `model_incomplete`, exit 2."""
    return broken(path, why, code="model_incomplete", fix=fix)


def check_no_adapter(path: Path, names: Iterable[str]) -> None:
    """Refuse weights that peft saved with an adapter beside them, which transformers does not read.

    Raises:
        QlaunchError: `model_unsupported`, exit 2.
    """
    name = next((name for name in names if ".base_layer." in name), None)
    if name is not None:
        raise broken(
            path,
            f"is of a model whose weights hold {shown(name)}: peft saved them with an adapter that"
            " is not merged",
            code="model_unsupported",
            fix="merge it (model.merge_and_unload(), then save_pretrained), and serve that folder",
        )


def visible(folder: Path, pattern: str) -> list[Path]:
    """What matches `pattern` in `folder`, in order, but for hidden files and folders.

    A Mac's copy leaves `._model.safetensors` beside model.safetensors, which no loader takes for
    weights.
    """
    return sorted(
        path
        for path in folder.glob(pattern)
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def open_regular(path: Path) -> int:
    """A descriptor of a regular file, links followed (hub caches are made of them).

    Raises:
        QlaunchError: `model_incomplete` if it is not there, `model_corrupt` if it is not a file
            or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        why = "is a link to a file that is gone" if path.is_symlink() else "is missing"
        raise missing(path, why) from error
    except OSError as error:
        raise broken(path, f"cannot be read: {error.strerror or error}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise broken(path, "is not a file")
    return descriptor


def read_bytes(path: Path, limit: int = MAX_SMALL_FILE) -> bytes:
    """All bytes of a regular file of at most `limit` bytes.

    Raises:
        QlaunchError: as `open_regular`, and `model_corrupt` if it is larger than `limit`.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        try:
            # By its size: asked for 2 GiB, Python would set 2 GiB aside.
            size = os.fstat(file.fileno()).st_size
            data = file.read(min(size, limit) + 1)
        except OSError as error:
            raise broken(path, f"cannot be read: {error.strerror or error}") from error
    if len(data) > limit:
        raise broken(path, f"is larger than {limit} bytes, too large for a file of its kind")
    return data


def check_link(path: Path) -> None:
    """Refuse a link that leads nowhere: its file would count as one that was never there.

    Raises:
        QlaunchError: `model_incomplete`, exit 2.
    """
    if path.is_symlink() and not path.exists():
        loop = "is a link in a circle" if _circle(path) else "is a link to a file that is gone"
        raise missing(path, loop)


def _circle(path: Path) -> bool:
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def read_json(path: Path, limit: int = MAX_SMALL_FILE) -> Any:
    """The JSON value in a file.

    Raises:
        QlaunchError: as `read_bytes`; `model_incomplete` if it is empty, `model_corrupt` if it is
            not JSON.
    """
    data = read_bytes(path, limit)
    if not data.strip():
        raise missing(path, "is empty")
    return parse_json(path, data)


def parse_json(path: Path, data: bytes) -> Any:
    """`data`, which came from `path`, as JSON; raises `model_corrupt`."""
    check_text(path, data)
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        if (word := _constant(data)) is not None:
            fix = f"write a number for {word} in that file, or remove its key"
            raise broken(path, f"holds {word}, which JSON does not have", fix=fix) from error
        raise broken(path, f"is not valid JSON: {shown(str(error))}") from error


def _constant(data: bytes) -> str | None:
    """The first NaN or infinity in what Python alone, which writes these, takes for JSON."""
    found: list[str] = []
    try:
        json.loads(data, parse_constant=found.append)
    except (ValueError, RecursionError):
        return None
    return found[0] if found else None


def check_stand_in(path: Path, start: bytes) -> None:
    """Refuse a file (beginning with `start`) that stands where another one belongs: git-lfs was to
    put it there, or a browser, a mirror or a login answered with a page.

    Raises:
        QlaunchError: `model_incomplete`, exit 2.
    """
    if start.lstrip().lower().startswith(_PAGES):
        raise missing(
            path,
            "is a web page (HTML), not the file of that name",
            fix="fetch the file itself; a hub's page about it, a login or a mirror that does not"
            " have it gives such a page",
        )
    if start.startswith(POINTER):
        # git-lfs works in clones alone: not in a hub's cache, nor in a copy of the files.
        is_clone = any((parent / ".git").exists() for parent in list(path.parents)[:4])
        fix = "run `git lfs pull` in that folder" if is_clone else None
        raise missing(path, "is a git-lfs pointer, not the file that it stands for", fix=fix)


def check_text(path: Path, data: bytes) -> None:
    """Refuse what stands in a file's place, and what an editor of Windows writes by default, which
    transformers does not read.

    Raises:
        QlaunchError: `model_incomplete` or `model_corrupt`, exit 2.
    """
    check_stand_in(path, data)
    marks = {
        codecs.BOM_UTF8: "begins with a byte order mark",
        codecs.BOM_UTF16_LE: "is in UTF-16",
        codecs.BOM_UTF16_BE: "is in UTF-16",
    }
    why = next((why for mark, why in marks.items() if data.startswith(mark)), None)
    if why is not None:
        fix = "save that file as UTF-8 without a byte order mark"
        raise broken(path, f"{why}, and transformers reads UTF-8 without one", fix=fix)


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; raises as `read_json`, and `model_corrupt` for another value."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise broken(path, "does not hold a JSON object")
    return value
