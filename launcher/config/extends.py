"""`extends: PARENT` in a profile: one parent, merged key by key.

Mappings are merged, at every depth; lists and single values of the child replace the parent's; a
key that the child sets to null is taken out, and one that the parent does not have stays as if
nobody had said it. What speaks of one profile alone is not inherited.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from launcher.config.profile import Cache, CheckpointNeed, HardwareNeed, Profile, Restart
from launcher.yaml_reader import Document, KeyPath, shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY: Final = "extends"
OWN: Final = ("title", "description", "measured", KEY)
"""Keys that are not inherited: a title names one profile, and evidence is of one profile."""
_FIELDS: Final[Mapping[KeyPath, tuple[str, ...]]] = {
    (): Profile.__struct_fields__,
    ("hardware",): HardwareNeed.__struct_fields__,
    ("checkpoint",): CheckpointNeed.__struct_fields__,
    ("restart",): Restart.__struct_fields__,
    ("cache",): Cache.__struct_fields__,
}
"""Keys of the sections that have a fixed set of them."""
MOST: Final = 16
"""Profiles in one line of descent: people write two or three."""


def with_parents(
    document: Document, find: Callable[[str, Document], Path], read: Callable[[Path], Document]
) -> tuple[Document, tuple[Path, ...]]:
    """`document` merged over its parent, and that over its own, with the parents' files in order.

    Args:
        document: a profile as it is written.
        find: the file that a name in a document's `extends` means; raises where there is none.
        read: reads one file as it is written.

    Raises:
        QlaunchError: `profile_invalid` (exit 2) with file and line: `extends` names no profile,
            leads in a circle, or through more than 16 files.
    """
    line = [document]
    while (name := line[-1].tree.get(KEY)) is not None:
        child = line[-1]
        if not isinstance(name, str):
            break  # the type says what belongs there
        if not name.strip():
            raise child.refusal((KEY,), "`extends` is empty", "name a profile, or leave it out")
        path = find(name, child)
        if any(each.path.resolve() == path.resolve() for each in line):
            circle = " → ".join([*(each.path.stem for each in line), path.stem])
            raise child.refusal((KEY,), f"`extends` leads in a circle: {shown(circle, 300)}")
        if len(line) == MOST:
            raise child.refusal((KEY,), f"`extends` leads through more than {MOST} profiles")
        line.append(read(path))
    whole = line[-1]
    for child in reversed(line[:-1]):
        whole = merged(whole, child)
    return whole, tuple(each.path for each in line[1:])


def merged(parent: Document, child: Document) -> Document:
    """`child` laid over `parent`, each part with the line and the file where it stands."""
    tree = copy.deepcopy(parent.tree)
    dropped: set[KeyPath] = {(key,) for key in OWN}
    for key in OWN:
        tree.pop(key, None)
    _lay_over(tree, child.tree, (), dropped)

    def inherited(lines: Mapping[KeyPath, int]) -> dict[KeyPath, int]:
        return {
            path: line
            for path, line in lines.items()
            if path not in child.values and not any(path[: len(d)] == d for d in dropped)
        }

    keys, values = inherited(parent.keys), inherited(parent.values)
    return replace(
        child,
        tree=tree,
        keys={**keys, **_present(child.keys, tree)},
        values={**values, **_present(child.values, tree)},
        files={path: parent.files.get(path, parent.path) for path in (*values, *keys)},
    )


def _lay_over(
    below: dict[str, Any], above: dict[str, Any], at: KeyPath, dropped: set[KeyPath]
) -> None:
    """Change `below` into what both say together; `dropped` gains what of it is gone."""
    for key, value in above.items():
        path = (*at, key)
        inside = below.get(key)
        if isinstance(value, dict) and isinstance(inside, dict):
            _lay_over(inside, value, path, dropped)
            continue
        if key in below:
            dropped.add(path)
        if isinstance(value, dict):
            below[key] = {}
            _lay_over(below[key], value, path, dropped)
        elif value is not None:
            below[key] = copy.deepcopy(value)
        elif key in below:
            del below[key]
        elif not _is_key(path):
            below[key] = None  # the type says that there is no such key


def _is_key(path: KeyPath) -> bool:
    """Whether a profile may have a value at `path`; names of options and variables are free."""
    fields = _FIELDS.get(path[:-1])
    return fields is None or path[-1] in fields


def _present(lines: Mapping[KeyPath, int], tree: dict[str, Any]) -> dict[KeyPath, int]:
    """The places of what is there: what a null took out has none."""
    return {path: number for path, number in lines.items() if _has(tree, path)}


def _has(tree: Any, path: KeyPath) -> bool:
    for step in path:
        if isinstance(tree, dict):
            if step not in tree:
                return False
        elif not isinstance(tree, list) or not isinstance(step, int) or step >= len(tree):
            return False
        tree = tree[step]
    return True
