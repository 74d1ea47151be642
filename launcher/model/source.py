"""Where a model comes from, as users write it: `hf:`, `modelscope:`, `package:` or a folder."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal, NoReturn

from launcher.errors import QlaunchError
from launcher.model.checkpoint import Source
from launcher.yaml_reader import shown

_KINDS: tuple[Literal["hf", "modelscope", "package"], ...] = ("hf", "modelscope", "package")
_SLASHED = re.compile(r"\.{0,2}/|~")
"""How a path begins: a folder's name may end with a blank, nothing else does."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
# What both hubs take as one part of a repository id: no leading dot or dash, so that an id is never
# a way out of a folder and never an option of a command.
_PART = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_REVISION = re.compile(r"(?!.*(?:\.\.|//))[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9_])?")
# PEP 508 names; versions as PEP 440 spells them, loosely: pip has the last word.
_PACKAGE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+!]*")
_PAGE = re.compile(
    r"(?:https?://)?(?P<hub>[\w-]+(?:\.[\w-]+)+(?::\d+)?)/(?:models/)?(?P<id>[^/?#]+/[^/?#]+)"
    r"(?:/(?:tree|blob|resolve|commit|files)/(?P<revision>[^/?#]+)[^?#]*|/[a-z]*)?(?:[?#].*)?",
    re.ASCII,
)
"""The page of a repository on a hub, or of one of its files, with or without `https://`."""
_KNOWN_AS = {"huggingface": "hf", "ms": "modelscope", "pip": "package", "pypi": "package"}
_LONGEST = 200
_FORMS = "write hf:ORG/NAME[@REV], modelscope:ORG/NAME[@REV], package:NAME[@VERSION] or a folder"


def parse_source(text: str, *, base: Path | None = None) -> Source:
    """Read a source as users write it.

    Args:
        text: `hf:ORG/NAME[@REV]`, `modelscope:ORG/NAME[@REV]`, `package:NAME[@VERSION]`, or a
            folder: absolute, relative or starting with `~`.
        base: folder that relative folders start from; None is the current directory.

    Returns:
        The source. A folder comes out absolute (it need not exist); a package name comes out in
        its normal form (PEP 503: lower case, single dashes).

    Raises:
        QlaunchError: `model_source_invalid` (exit 2).
    """
    text = trimmed(text)
    if not text or not text.isprintable():
        odd = "holds control characters" if text.isascii() or _is_utf8(text) else "is not UTF-8"
        _refuse(text, odd if text else "is empty")
    scheme = _SCHEME.match(text)
    if scheme is None:
        return Source(kind="path", location=_absolute(text, base))
    kind = next((k for k in _KINDS if k == scheme[1]), None)
    if kind is None:
        _refuse(text, f"starts with `{shown(scheme[1], 20)}:`, which is not a kind of source")
    location, at, revision = text[scheme.end() :].partition("@")
    if at and not revision:
        _refuse(text, "ends with `@` but names no revision")
    if kind == "package":
        return _package(text, location, revision)
    return _repository(kind, text, location, revision)


def trimmed(text: str) -> str:
    """`text` without blanks around it, but for those at the end of a path: they are a name's."""
    return text if _SLASHED.match(text) else text.strip()


def meant(text: str) -> str | None:
    """The source that someone had in mind who wrote it as another tool does, or None.

    An address of a hub's page (`https://HUB/ORG/NAME/tree/REV`), `hf://ORG/NAME`, `HF:ORG/NAME`,
    `file:///FOLDER`.
    """
    if (file := re.fullmatch(r"file:(?://)?(/.+)", text, re.IGNORECASE)) is not None:
        return file[1]
    if (page := _PAGE.fullmatch(text)) is not None:
        kind = "modelscope" if "modelscope" in page["hub"].lower() else "hf"
        source = f"{kind}:{page['id']}" + (f"@{page['revision']}" if page["revision"] else "")
    elif (scheme := re.fullmatch(r"(\w+):(?://)?(.+)", text)) is not None:
        source = f"{_KNOWN_AS.get(scheme[1].lower(), scheme[1].lower())}:{scheme[2]}"
    else:
        return None
    if source.partition(":")[0] not in _KINDS or source == text:
        return None
    try:
        return str(parse_source(source))
    except QlaunchError:
        return None


def _is_utf8(text: str) -> bool:
    """Whether every letter came from UTF-8: others stand for bytes that could not be read."""
    return not any("\udc80" <= letter <= "\udcff" for letter in text)


def looks_like_repository(text: str) -> bool:
    """Whether `text` has the form ORG/NAME, which people write without `hf:` before it."""
    parts = text.split("/")
    return len(parts) == 2 and all(_PART.fullmatch(part) for part in parts)


def _package(text: str, name: str, version: str) -> Source:
    if len(name) > _LONGEST or not _PACKAGE.fullmatch(name):
        _refuse(text, "does not name a Python package")
    if version and (len(version) > _LONGEST or not _VERSION.fullmatch(version)):
        _refuse(text, "does not give a version such as 0.1.0 after `@`")
    normal = re.sub(r"[-_.]+", "-", name).lower()
    return Source(kind="package", location=normal, revision=version or None)


def _repository(
    kind: Literal["hf", "modelscope"], text: str, location: str, revision: str
) -> Source:
    if len(location) > _LONGEST or not looks_like_repository(location):
        _refuse(text, "does not name a repository as ORG/NAME")
    if revision and (len(revision) > _LONGEST or not _REVISION.fullmatch(revision)):
        _refuse(text, "does not give a branch, tag or commit after `@`")
    return Source(kind=kind, location=location, revision=revision or None)


def _absolute(text: str, base: Path | None) -> str:
    try:
        folder = Path(text).expanduser()
    except RuntimeError:  # `~name` of a user this machine does not have
        _refuse(text, "names the home of a user that does not exist")
    return os.path.abspath((base or Path.cwd()) / folder)  # noqa: PTH100 - drops `..` unlike absolute()


def _refuse(text: str, why: str) -> NoReturn:
    better = meant(text)
    raise QlaunchError(
        f"the model source '{shown(text)}' {why}",
        code="model_source_invalid",
        fix=f"write {shown(better, 400)}" if better else _FORMS,
    )
