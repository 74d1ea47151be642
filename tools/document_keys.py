"""The keys of a typed document, for docs/cli.md."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec


def keys(document: type[msgspec.Struct], *, skip: frozenset[str] = frozenset()) -> str:
    """`a`, `b.{c,d}`, `e[].{f}`; a `?` after a key that is only there where it applies.

    Args:
        skip: names, at any depth, whose own keys are told elsewhere.
    """
    return ", ".join(f"`{key}`" for key in _keys(document, skip, ()))


def under(name: str, document: type[msgspec.Struct], *, skip: frozenset[str] = frozenset()) -> str:
    """`name.{a,b}`: the keys of a document that is a part of another; `name` may end with `[]`."""
    return f"`{name}.{{{','.join(_keys(document, skip, ()))}}}`"


def _keys(
    document: type[msgspec.Struct], skip: frozenset[str], above: tuple[type, ...]
) -> Iterator[str]:
    for field in msgspec.structs.fields(document):
        parts = _parts(field.type)
        name = field.encode_name + "?" * (msgspec.UnsetType in parts)
        name += "[]" * any(get_origin(part) in (tuple, list) for part in parts)
        inner = _document(field.type)
        if inner is None or field.name in skip or inner in (*above, document):
            yield name
        else:
            yield f"{name}.{{{','.join(_keys(inner, skip, (*above, document)))}}}"


def _parts(type_: Any) -> tuple[Any, ...]:
    """The members of a union, else the type alone."""
    if get_origin(type_) is Annotated:
        return _parts(get_args(type_)[0])
    if get_origin(type_) in (Union, types.UnionType):
        return get_args(type_)
    return (type_,)


def _document(type_: Any) -> type[msgspec.Struct] | None:
    """The document in a type: itself, of a list, or the first of a union."""
    for part in _parts(type_):
        if isinstance(part, type) and issubclass(part, msgspec.Struct):
            return part
        if get_origin(part) in (tuple, list):
            return _document(get_args(part)[0])
    return None
