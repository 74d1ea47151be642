"""YAML files people write, read safely into typed values; every refusal names file and line.

The dialect is YAML 1.2's core schema: only `true` and `false` are booleans (`on` and `no` are
text), `1e3` is a float, there are no dates and no sexagesimal numbers. Tags, merge keys, documents
after the first and anything that grows without bound are refused.
"""

from __future__ import annotations

import errno
import math
import os
import re
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
import yaml

from launcher.errors import QlaunchError
from launcher.yaml_messages import (
    KeyPath,
    did_you_mean,
    explain,
    found_words,
    nearest,
    shown,
    wanted_words,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = [
    "Document",
    "KeyPath",
    "Loaded",
    "did_you_mean",
    "load_typed",
    "nearest",
    "read_document",
    "shown",
    "typed",
    "wanted_words",
]

MAX_DEPTH = 32
"""Mappings and lists inside one another; people write four."""
MAX_ALIASED_NODES = 10_000
"""Values after every alias is written out: a few lines of aliases can stand for billions."""

T = TypeVar("T")

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
# libyaml's parser where PyYAML was built with it: ten times faster, the same marks (tested).
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Loaded(Generic[T]):
    """A typed value, and where each part of it stands in the file."""

    value: T
    lines: Mapping[KeyPath, int]
    """Line (from 1) on which the value at a path such as `("flags", "dtype")` begins."""

    files: Mapping[KeyPath, Path] = field(default_factory=dict)
    """The file of a part that stands in another file than the one that was read."""

    def line(self, path: KeyPath) -> int:
        """Line of the value at `path`, or of the nearest value around it (1 for the file)."""
        return _line(self.lines, path)


@dataclass(frozen=True)
class Document:
    """A YAML mapping as plain values, and where each part of it stands; lines count from 1."""

    path: Path
    what: str
    """What the file is, for messages (`profile`, `model card`)."""
    code: str
    """Error code of every refusal."""
    tree: dict[str, Any]
    keys: Mapping[KeyPath, int]
    """Line of the key that a path ends with."""
    values: Mapping[KeyPath, int]
    """Line on which the value at a path begins."""
    files: Mapping[KeyPath, Path] = field(default_factory=dict)
    """The file of a part that does not stand in `path` itself."""

    def refusal(self, at: KeyPath, message: str, fix: str | None = None) -> QlaunchError:
        """An error (exit 2) about the value at `at`, or about the nearest value around it."""
        near = _nearest(self.values, at)
        problem = _ProblemError(self.values.get(near, 1), message, fix)
        return _refusal(self.files.get(near, self.path), self.what, self.code, problem)


class _ProblemError(Exception):
    """What is wrong on which line; becomes a QlaunchError once file and code are known."""

    def __init__(self, line: int | None, message: str, fix: str | None = None) -> None:
        super().__init__(message)
        self.line, self.message, self.fix = line, message, fix


def load_typed(
    path: Path,
    type_: type[T],
    *,
    what: str,
    code: str = "profile_invalid",
    max_bytes: int = 262_144,
    empty: bool = False,
) -> Loaded[T]:
    """Read the YAML mapping in `path` as `type_` (a Struct or anything msgspec converts to).

    Args:
        what: what the file is, for messages (`profile`, `model card`).
        code: error code of every refusal.
        max_bytes: largest file that is read at all.
        empty: whether a file without a value, or with comments alone, is a mapping without keys.

    Raises:
        QlaunchError: `code`, exit 2: no readable file, not the YAML described above, or not the
            type; one sentence with `file:line`.
    """
    document = read_document(path, what=what, code=code, max_bytes=max_bytes, empty=empty)
    return typed(document, type_)


def read_document(
    path: Path,
    *,
    what: str,
    code: str = "profile_invalid",
    max_bytes: int = 262_144,
    empty: bool = False,
) -> Document:
    """Read the YAML mapping in `path` as plain values; arguments and errors as `load_typed`."""
    try:
        tree, keys, values = _parse(_decode(_read(path, max_bytes)), empty=empty)
    except _ProblemError as problem:
        raise _refusal(path, what, code, problem) from problem
    return Document(path, what, code, tree, keys, values)


def typed(document: Document, type_: type[T]) -> Loaded[T]:
    """The document as `type_`.

    Raises:
        QlaunchError: the document's `code` (exit 2), with the file and line of what does not fit.
    """
    try:
        value = msgspec.convert(document.tree, type_, strict=True)
    except msgspec.ValidationError as error:
        misfit = explain(document.tree, type_, str(error))
        lines = {**document.values, **document.keys} if misfit.about_key else document.values
        near = _nearest(lines, misfit.path)
        problem = _ProblemError(lines.get(near, 1), misfit.message, misfit.fix)
        file = document.files.get(near, document.path)
        raise _refusal(file, document.what, document.code, problem) from error
    return Loaded(value, document.values, document.files)


def _refusal(path: Path, what: str, code: str, problem: _ProblemError) -> QlaunchError:
    place = shown(str(path), 400) + (f":{problem.line}" if problem.line else "")
    message = f"{what} {place}: {problem.message}"
    return QlaunchError(message, code=code, fix=problem.fix)


# --- the file ------------------------------------------------------------------------------------


def _read(path: Path, max_bytes: int) -> bytes:
    """Bytes of a regular file; never blocks on a pipe, never reads past the limit."""
    try:
        with open(path, "rb", opener=_open_quickly) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise _ProblemError(None, "is not a regular file")
            data = b"" if found.st_size > max_bytes else file.read(max_bytes + 1)
    except ValueError as error:
        raise _ProblemError(None, "the file name is not one a file can have") from error
    except OSError as error:
        raise _ProblemError(None, _os_reason(error)) from error
    if found.st_size > max_bytes or len(data) > max_bytes:
        raise _ProblemError(None, f"is larger than {max_bytes} bytes, the limit for such a file")
    return data


def _open_quickly(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _os_reason(error: OSError) -> str:
    reasons = {
        errno.ENOENT: "there is no such file",
        errno.EISDIR: "is a folder where a file belongs",
        errno.ENOTDIR: "a file stands where one of its folders belongs",
        errno.ELOOP: "its symbolic links lead in a circle",
        errno.EACCES: "cannot be read: permission denied",
        errno.ENAMETOOLONG: "the file name is too long",
    }
    return reasons.get(error.errno or 0, f"cannot be read: {error.strerror or error}")


def _decode(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _ProblemError(1, "is UTF-16, not UTF-8", "save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _ProblemError(
            line, f"is not UTF-8 (byte {error.start})", "save it as UTF-8"
        ) from error
    # PyYAML's own pattern of what YAML calls unprintable (compiling it again would cost 6 ms).
    found = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if found:
        line = text.count("\n", 0, found.start()) + 1
        raise _ProblemError(line, f"contains the control character {found.group()!r}")
    return text


# --- YAML to plain values ------------------------------------------------------------------------


@dataclass
class _Frame:
    """A mapping or list whose end is not read yet."""

    value: dict[str, Any] | list[Any]
    path: KeyPath
    anchor: str | None
    key: str | None = None
    nodes: int = 1
    height: int = 1


@dataclass(frozen=True)
class _Anchor:
    """A finished value that aliases may repeat: how many values, how many levels."""

    value: Any
    nodes: int
    height: int


@dataclass
class _Builder:
    """Builds values from parser events without recursion, so that depth is ours to refuse."""

    keys: dict[KeyPath, int] = field(default_factory=dict)
    values: dict[KeyPath, int] = field(default_factory=dict)
    anchors: dict[str, _Anchor | None] = field(default_factory=dict)
    stack: list[_Frame] = field(default_factory=list)
    root: Any = None
    documents: int = 0

    def feed(self, event: Any) -> None:
        """Take one event.

        Raises:
            _ProblemError: the event is something the dialect refuses.
        """
        line = event.start_mark.line + 1
        if getattr(event, "tag", None) is not None:
            raise _ProblemError(
                line, f"the tag `{shown(event.tag)}` is not allowed", "remove the tag"
            )
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise _ProblemError(line, "holds a second document (`---`); only one is allowed")
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event.anchor, line)
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event, line)
        elif isinstance(event, yaml.MappingStartEvent):
            self._open({}, event.anchor, line)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._open([], event.anchor, line)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._close()

    def _next_path(self, line: int) -> KeyPath:
        """Path of the value that comes next; refuses one where a key belongs."""
        if not self.stack:
            return ()
        frame = self.stack[-1]
        if isinstance(frame.value, list):
            return (*frame.path, len(frame.value))
        if frame.key is None:
            raise _ProblemError(line, "a key must be plain text, not a list, a mapping or an alias")
        return (*frame.path, frame.key)

    def _scalar(self, event: Any, line: int) -> None:
        value = _resolve(event.value, line) if event.implicit[0] else event.value
        if isinstance(value, str) and ("\0" in value or not _encodable(value)):
            raise _ProblemError(line, "text contains a null character or half a surrogate pair")
        if event.anchor is not None:
            self.anchors[event.anchor] = _Anchor(value, 1, 0)
        frame = self.stack[-1] if self.stack else None
        if frame is not None and isinstance(frame.value, dict) and frame.key is None:
            self._key(frame, value, event.value, line)
            return
        self.values[self._next_path(line)] = line
        self._place(_Anchor(value, 1, 0), None)

    def _key(self, frame: _Frame, value: object, text: str, line: int) -> None:
        if not isinstance(value, str):
            raise _ProblemError(
                line, f"the key {shown(text) or 'null'} is not text", "quote the key"
            )
        if value == "<<":
            raise _ProblemError(line, "merge keys (`<<`) are not allowed", "write the keys out")
        path = (*frame.path, value)
        if path in self.keys:
            first = self.keys[path]
            raise _ProblemError(
                line, f"the key `{shown(value)}` is there twice (first on line {first})"
            )
        self.keys[path] = line
        frame.key = value

    def _open(self, value: dict[str, Any] | list[Any], anchor: str | None, line: int) -> None:
        path = self._next_path(line)
        if len(self.stack) >= MAX_DEPTH:
            raise _ProblemError(line, f"is nested deeper than {MAX_DEPTH} levels")
        self.values[path] = line
        if anchor is not None:
            self.anchors[anchor] = None
        self.stack.append(_Frame(value, path, anchor))

    def _close(self) -> None:
        frame = self.stack.pop()
        self._place(_Anchor(frame.value, frame.nodes, frame.height), frame.anchor)

    def _alias(self, name: str | None, line: int) -> None:
        path = self._next_path(line)
        assert name is not None, "the parser gives every alias a name"
        target = self.anchors.get(name)
        if target is None:
            why = "repeats a value that contains it" if name in self.anchors else "has no anchor"
            raise _ProblemError(line, f"the alias `*{shown(name)}` {why}")
        if len(self.stack) + target.height > MAX_DEPTH:
            raise _ProblemError(line, f"is nested deeper than {MAX_DEPTH} levels")
        self.values[path] = line
        self._place(target, None)
        if sum(frame.nodes for frame in self.stack) > MAX_ALIASED_NODES:
            raise _ProblemError(line, f"its aliases stand for more than {MAX_ALIASED_NODES} values")

    def _place(self, node: _Anchor, anchor: str | None) -> None:
        if anchor is not None:
            self.anchors[anchor] = node
        if not self.stack:
            self.root = node.value
            return
        frame = self.stack[-1]
        frame.nodes += node.nodes
        frame.height = max(frame.height, node.height + 1)
        if isinstance(frame.value, list):
            frame.value.append(node.value)
        else:
            assert frame.key is not None
            frame.value[frame.key] = node.value
            frame.key = None


def _encodable(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _parse(
    text: str, *, empty: bool
) -> tuple[dict[str, Any], dict[KeyPath, int], dict[KeyPath, int]]:
    """The mapping in `text`, with the lines of its keys and of its values."""
    builder = _Builder()
    for event in _events(text):
        builder.feed(event)
    if builder.root is None and empty:
        return {}, {}, {}
    if builder.root is None:
        raise _ProblemError(1, "is empty")
    if not isinstance(builder.root, dict):
        found = found_words(builder.root)
        raise _ProblemError(builder.values[()], f"must be a mapping (`key: value`), found {found}")
    return builder.root, builder.keys, builder.values


def _events(text: str) -> Iterator[Any]:
    """Parser events, its errors turned into problems with a line."""
    try:
        yield from yaml.parse(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        if line and _tab_indented(text, line):
            raise _ProblemError(line, "is indented with a tab", "indent with spaces") from error
        said = ", ".join(part for part in (error.context, error.problem) if part)
        if error.context_mark and line and error.context_mark.line + 1 < line:
            said += f" (begun on line {error.context_mark.line + 1})"
        fix = _quoted(text, line, str(error.problem)) if line else None
        raise _ProblemError(line, f"is not valid YAML: {shown(said, 200)}", fix) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML's own scanner lets chr() fail on an escape such as "\UFFFFFFFF".
        raise _ProblemError(None, f"is not valid YAML: {shown(str(error), 200)}") from error


_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""Where PyYAML ends a line."""
_COLON = re.compile(r"(\s*(?:- )?[A-Za-z0-9_.-]+: +)([^\s\"'\[{&*|>#].*:(?:\s.*)?)")


def _quoted(text: str, line: int, problem: str) -> str | None:
    """The line with quotes around a value that holds a colon, where that is what is wrong."""
    if not problem.startswith("mapping values are not allowed"):
        return None
    written = re.split(r"\s#", _BREAK.split(text)[line - 1])[0].rstrip()
    found = _COLON.fullmatch(written)
    if found is None or "\\" in found[2] or '"' in found[2]:
        return None
    return f'quote the value, for it holds a colon: {shown(found[1].strip(), 40)} "{found[2]}"'


def _tab_indented(text: str, line: int) -> bool:
    """Whether the line, or the last one before it that is not blank, starts with a tab."""
    lines = [part for part in _BREAK.split(text)[:line] if part.strip()]
    return bool(lines) and "\t" in lines[-1][: len(lines[-1]) - len(lines[-1].lstrip())]


def _resolve(text: str, line: int) -> bool | int | float | str | None:
    """A plain (unquoted) scalar by YAML 1.2's core schema."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _NOT_FINITE.fullmatch(text):
        raise _ProblemError(line, f"{text} is not a finite number", "quote it if text is meant")
    if not _FLOAT.fullmatch(text) and not _INT.fullmatch(text):
        return text
    if len(text) > 300:
        raise _ProblemError(line, f"the number {shown(text, 20)} is too long")
    if _INT.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    number = float(text)
    if not math.isfinite(number):
        raise _ProblemError(
            line, f"{shown(text)} is not a finite number", "quote it if text is meant"
        )
    return number


# --- places --------------------------------------------------------------------------------------


def _nearest(lines: Mapping[KeyPath, int], path: KeyPath) -> KeyPath:
    """`path`, or the nearest value around it that has a line."""
    while path and path not in lines:
        path = path[:-1]
    return path


def _line(lines: Mapping[KeyPath, int], path: KeyPath) -> int:
    return lines.get(_nearest(lines, path), 1)
