"""Messages about a YAML file's content, in its own terms: which key, what belongs there."""

from __future__ import annotations

import copy
import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import msgspec.inspect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

KeyPath = tuple[str | int, ...]
"""Keys and list positions from the top of the file: `("flags", "dtype")`."""


def nearest(word: str, candidates: Iterable[str]) -> list[str]:
    """Up to three of `candidates` that `word` is likely a slip for, best first."""
    by_folded = {candidate.lower(): candidate for candidate in candidates}
    # Long words cost quadratic time and are no slip of the hand.
    close = difflib.get_close_matches(word.lower()[:100], by_folded, n=3, cutoff=0.6)
    return [by_folded[folded] for folded in close]


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """`; did you mean `a` or `b`?`, or nothing where no candidate is near."""
    names = " or ".join(f"`{name}`" for name in nearest(word, candidates))
    return f"; did you mean {names}?" if names else ""


def shown(text: str, limit: int = 80) -> str:
    """`text` cut to `limit` characters and safe on a terminal: control characters are escaped."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in cut
    )


@dataclass(frozen=True)
class Misfit:
    """Where the values do not fit the type, and how."""

    path: KeyPath
    message: str
    fix: str | None = None
    about_key: bool = False
    """The key at `path` is wrong, not the value."""


_AT = r" - at (?P<key>`key` in )?`\$(?P<path>(?:\.[^.\[`]+|\[\d+\]|\[\.\.\.\])*)`$"
_SEGMENT = r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+)\]|\[(?P<some>\.\.\.)\]"


def explain(tree: dict[str, Any], type_: Any, text: str) -> Misfit:
    """msgspec's error in the file's own terms: which path, what belongs there, what is there."""
    at = re.search(_AT, text)
    said = text[: at.start()] if at else text
    tree = copy.deepcopy(tree)
    path: KeyPath = ()
    value: Any = tree
    info: Any = msgspec.inspect.type_info(type_)
    steps = at.group("path") if at else ""
    for segment in re.finditer(_SEGMENT, steps + ("[...]" if at and at.group("key") else "")):
        step = _step(segment, value, lambda: _error(tree, type_), text)
        path, value, info = (*path, step), value[step], _inside(info, step)
    if at and at.group("key"):
        return Misfit(path, f"`{_dotted(path)}`: {said}", about_key=True)
    return _misfit(path, value, info, said)


def _misfit(path: KeyPath, value: object, info: Any, said: str) -> Misfit:
    """The message for `said`, msgspec's words about the `value` at `path`."""
    inside = f" in `{_dotted(path)}`" if path else ""
    named = re.fullmatch(r"Object (?P<how>\w+) .*field `(?P<key>.*)`", said, re.DOTALL)
    if named:
        key, known = named["key"], _fields(info)
        if named["how"] == "missing":
            return Misfit(path, f"the key `{key}` is missing{inside}", f"add `{key}: …`")
        hint = did_you_mean(key, known)
        fix = f"keys allowed here: {', '.join(known)}" if known else None
        message = f"unknown key `{shown(key)}`{inside}{hint}"
        return Misfit((*path, key), message, fix, about_key=True)
    wanted = _wanted(info)
    if not wanted or not said.startswith(("Expected", "Invalid enum value")):
        return Misfit(path, f"`{_dotted(path)}`: {said}" if path else said)
    options = [option for kind in _kinds(info) for option in getattr(kind, "values", ())]
    hint = did_you_mean(value, map(str, options)) if isinstance(value, str) else ""
    fix = _own_fix(info)
    if fix is None and _may_be_quoted(value, info):
        fix = f'quote it if text is meant: "{_plain(value)}"'
    elif value in ("yes", "on", "no", "off") and "true" in wanted:
        fix = "write true or false"
    message = f"`{_dotted(path)}` must be {wanted}, found {found_words(value)}{hint}"
    return Misfit(path, message, fix)


def _own_fix(info: Any) -> str | None:
    """What to write, where a type brings its own words: Meta(extra={"fix": "…"})."""
    parts = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    brought = ((getattr(part, "extra", None) or {}).get("fix") for part in parts)
    return next((str(fix) for fix in brought if fix), None)


def _may_be_quoted(value: object, info: Any) -> bool:
    """Whether text is taken, and a number is not, for which `value` stands bare."""
    if value is None or isinstance(value, str | list | dict):
        return False
    kinds, i = _kinds(info), msgspec.inspect
    numbers = any(isinstance(kind, i.IntType | i.FloatType) for kind in kinds)
    return "text" in _wanted(info) and not numbers


def wanted_words(type_: Any) -> str:
    """What a type accepts, in words: `a whole number at least 1 or auto`."""
    return _wanted(msgspec.inspect.type_info(type_))


def _step(
    segment: re.Match[str], value: Any, error: Callable[[], str | None], text: str
) -> str | int:
    """The key or index that a segment of msgspec's path stands for.

    msgspec does not name the key of a dictionary (`[...]`): halve the dictionary until only the
    entry that causes the very same error is left. `value` is a copy, and stays halved.
    """
    if segment["index"]:
        return int(segment["index"])
    if segment["name"]:
        return segment["name"]
    entries = list(value.items())
    while len(entries) > 1:
        half = entries[: len(entries) // 2]
        value.clear()
        value.update(half)
        if error() != text:
            half = entries[len(half) :]
        entries = half
    value.clear()
    value.update(entries)
    return str(entries[0][0])


def _error(tree: object, type_: Any) -> str | None:
    try:
        msgspec.convert(tree, type_, strict=True)
    except msgspec.ValidationError as error:
        return str(error)
    return None


def _kinds(info: Any) -> list[Any]:
    """The alternatives of a type, its metadata taken off."""
    while isinstance(info, msgspec.inspect.Metadata):
        info = info.type
    if isinstance(info, msgspec.inspect.UnionType):
        return [kind for part in info.types for kind in _kinds(part)]
    return [] if info is None else [info]


def _fields(info: Any) -> list[str]:
    return [f.encode_name for kind in _kinds(info) for f in getattr(kind, "fields", ())]


def _inside(info: Any, step: str | int) -> Any:
    """Type of what lies at `step` in a value of type `info`; None where it cannot be told."""
    for kind in _kinds(info):
        for f in getattr(kind, "fields", ()):
            if f.encode_name == step:
                return f.type
        if isinstance(kind, msgspec.inspect.DictType) and isinstance(step, str):
            return kind.value_type
        if isinstance(step, int) and hasattr(kind, "item_type"):
            return kind.item_type
        if isinstance(step, int) and isinstance(kind, msgspec.inspect.TupleType):
            return kind.item_types[step]
    return None


def _wanted(info: Any) -> str:
    """The type in words: `a whole number from 0 to 65535 or text`; empty where unknown."""
    if isinstance(info, msgspec.inspect.Metadata):
        # A type may bring its own words: Meta(extra={"words": "…"}).
        return str((info.extra or {}).get("words") or _wanted(info.type))
    if not isinstance(info, msgspec.inspect.UnionType):
        return "" if info is None else _wanted_one(info)
    words = list(dict.fromkeys(_wanted(part) for part in info.types))
    if "a number" in words and "a whole number" in words:
        words.remove("a whole number")
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _wanted_one(kind: Any) -> str:
    i = msgspec.inspect
    if isinstance(kind, i.LiteralType):
        options = [str(value) for value in kind.values]
        return options[0] if len(options) == 1 else "one of " + ", ".join(options)
    if isinstance(kind, i.IntType | i.FloatType):
        noun = "a whole number" if isinstance(kind, i.IntType) else "a number"
        limits = (
            ("at least", kind.ge),
            ("above", kind.gt),
            ("at most", kind.le),
            ("below", kind.lt),
        )
        given = [f"{word} {limit}" for word, limit in limits if limit is not None]
        return f"{noun} {' and '.join(given)}".rstrip()
    if isinstance(kind, i.StrType):
        return "text" + (f" matching {kind.pattern}" if kind.pattern else "")
    words: list[tuple[Any, str]] = [
        (i.BoolType, "true or false"),
        (i.NoneType, "nothing"),
        ((i.ListType, i.VarTupleType, i.TupleType, i.SetType, i.FrozenSetType), "a list"),
        ((i.DictType, i.StructType, i.DataclassType, i.TypedDictType), "a mapping"),
    ]
    word = next((word for kinds, word in words if isinstance(kind, kinds)), "another type")
    return word + _length(kind)


def _length(kind: Any) -> str:
    """How much a list or a mapping holds, where that is bounded."""
    least, most = getattr(kind, "min_length", None), getattr(kind, "max_length", None)
    if least == 1 and most is None:
        return " that is not empty"
    bounds = [
        f"{word} {n}" for word, n in (("at least", least), ("at most", most)) if n is not None
    ]
    return f" with {' and '.join(bounds)} entries" if bounds else ""


def _dotted(path: KeyPath) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return shown(text.removeprefix("."), 120)


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def found_words(value: object) -> str:
    """What a value is, in words, with the value where it is short."""
    words: list[tuple[type, Callable[[Any], str]]] = [
        (bool, lambda v: "true" if v else "false"),
        (int, lambda v: f"the number {shown(str(v), 40)}"),
        (float, lambda v: f"the number {v}"),
        (str, lambda v: f"the text '{shown(v, 60)}'"),
        (list, lambda v: f"a list of {len(v)}" if v else "an empty list"),
        (dict, lambda v: "a mapping" if v else "an empty mapping"),
    ]
    return next((say(value) for kind, say in words if isinstance(value, kind)), "nothing")
