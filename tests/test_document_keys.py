"""The keys that docs/cli.md tells are read from the documents' types."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from tools.document_keys import keys, under


class _Part(msgspec.Struct):
    a: int
    b: str | None = None


class _Whole(msgspec.Struct):
    one: _Part | None
    many: tuple[_Part, ...]
    words: list[str]
    sometimes: tuple[_Part, ...] | UnsetType = UNSET
    itself: tuple[_Whole, ...] = ()


def test_parts_are_told_with_their_keys_and_what_may_be_missing_with_a_mark() -> None:
    told = "`one.{a,b}`, `many[].{a,b}`, `words[]`, `sometimes?[].{a,b}`, `itself[]`"
    assert keys(_Whole) == told


def test_what_has_a_schema_of_its_own_is_told_by_name_only() -> None:
    assert under("x[]", _Whole, skip=frozenset({"one", "many", "sometimes"})) == (
        "`x[].{one,many[],words[],sometimes?[],itself[]}`"
    )
