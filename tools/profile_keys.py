"""docs/profile-keys.md, written from profiles/schema.json: `python -m tools.profile_keys`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from launcher.linux.files import write_atomic

ROOT: Final = Path(__file__).resolve().parents[1]
SCHEMA: Final = ROOT / "profiles" / "schema.json"
DOCUMENT: Final = ROOT / "docs" / "profile-keys.md"
PARTS: Final = {
    "Profile": "A profile",
    "HardwareNeed": "hardware",
    "CheckpointNeed": "checkpoint",
    "Cache": "cache",
    "Restart": "restart",
}
"""Parts of the schema that are tables here, in this order, by their headings."""
_HEAD: Final = """\
# Keys of a profile

Every key of a profile file, generated from [`profiles/schema.json`](../profiles/schema.json) by
`make docs`; editors that know YAML schemas complete from the same file. How to write one:
[own-profile.md](own-profile.md); those that ship with qlaunch: [profiles.md](profiles.md). A file
with `extends` needs no other key.
"""


def page() -> str:
    """The whole page.

    Raises:
        KeyError: the schema has no such part, or one that this page does not show.
    """
    parts = json.loads(SCHEMA.read_text("utf-8"))["$defs"]
    unknown = parts.keys() - PARTS.keys() - {"Child"}  # `Child` is `Profile` with nothing required
    if unknown:
        raise KeyError(f"PARTS names no heading for {sorted(unknown)}")
    lines = [_HEAD]
    for name, heading in PARTS.items():
        lines += [f"## {heading}", "", *_table(parts[name]), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _table(part: dict[str, Any]) -> Iterator[str]:
    yield f"{part['description']}"
    yield ""
    yield "| key | value | left out | meaning |"
    yield "|---|---|---|---|"
    for key, facts in part["properties"].items():
        default = "required" if key in part.get("required", ()) else _default(facts)
        meaning = " ".join(str(facts.get("description", "")).split()).replace("|", "\\|")
        yield f"| `{key}` | {_kind(facts)} | {default} | {meaning} |"


def _default(facts: dict[str, Any]) -> str:
    value = facts.get("default")
    return "–" if value in (None, "", [], {}) else f"`{json.dumps(value)}`"


def _kind(facts: dict[str, Any]) -> str:
    """What a value is, in a word or two."""
    if "enum" in facts:
        return ", ".join(f"`{value}`" for value in facts["enum"] if value is not None)
    for several in ("anyOf", "oneOf"):
        if several in facts:
            kinds = dict.fromkeys(_kind(each) for each in facts[several])
            return " or ".join(kind for kind in kinds if kind != "null")
    if "allOf" in facts or "$ref" in facts:
        reference = facts.get("$ref") or facts["allOf"][0]["$ref"]
        heading = PARTS[reference.rpartition("/")[2]]
        return f"mapping [{heading}](#{heading.lower().replace(' ', '-')})"
    kind = facts.get("type", "any")
    if isinstance(kind, list):
        return " or ".join(each for each in kind if each != "null")
    names = {"object": "mapping", "array": "list", "string": "text", "boolean": "yes or no"}
    return names.get(str(kind), str(kind))


def main() -> None:
    """Write the page."""
    write_atomic(DOCUMENT, page().encode(), mode=0o644)
    sys.stdout.write(f"wrote {DOCUMENT}\n")


if __name__ == "__main__":
    main()
