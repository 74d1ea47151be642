"""The published JSON schema of a profile; `python -m launcher.config.schema` writes it.

Descriptions are the docstrings under the fields in `types.py`: one text for both readers.
"""

from __future__ import annotations

import ast
import copy
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgspec

from launcher.config import profile
from launcher.config.checks import ENV_NAME, FLAG_KEY, RELEASE
from launcher.config.extends import KEY
from launcher.config.loading import shipped_dir
from launcher.linux.files import write_atomic

MERGED: Final = ("flags", "env")
"""Mappings of free keys, each of which a child may take out with null."""


def profile_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) that every valid profile fits."""
    schema = msgspec.json.schema(profile.Profile)
    definitions: dict[str, Any] = schema["$defs"]
    for name, fields in field_texts(profile).items():
        if name not in definitions:
            continue
        for field, text in fields.items():
            _describe(definitions[name]["properties"], field, text)
    properties = definitions["Profile"]["properties"]
    properties["flags"]["propertyNames"] = {"pattern": FLAG_KEY}
    by_engine = properties["flags_by_engine"]
    by_engine["propertyNames"] = {"pattern": RELEASE}
    by_engine["additionalProperties"]["propertyNames"] = {"pattern": FLAG_KEY}
    properties["env"]["propertyNames"] = {"pattern": ENV_NAME}
    definitions["Child"] = _child(definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "qlaunch profile",
        "if": {"required": [KEY]},
        "then": {"$ref": "#/$defs/Child"},
        "else": {"$ref": "#/$defs/Profile"},
        "$defs": definitions,
    }


def _child(definitions: dict[str, Any]) -> dict[str, Any]:
    """A profile with a parent: nothing in it is required, and null takes out what the parent has.

    What a section requires moves from its own definition to the profile that has no parent.
    """
    profile_ = definitions["Profile"]
    properties = copy.deepcopy(profile_["properties"])
    for field, found in properties.items():
        text = found.pop("description")
        if field in MERGED:
            options = found["additionalProperties"]
            found["additionalProperties"] = {"anyOf": [options, {"type": "null"}]}
        properties[field] = {"description": text, "anyOf": [found, {"type": "null"}]}
    for field, name in (("hardware", "HardwareNeed"), ("checkpoint", "CheckpointNeed")):
        required = definitions[name].pop("required")
        profile_["properties"][field]["if"] = {"type": "object"}
        profile_["properties"][field]["then"] = {"required": required}
    return {**profile_, "properties": properties, "required": [KEY]}


def schema_text() -> str:
    """The schema as it is committed: indented, one line break at the end."""
    return json.dumps(profile_schema(), indent=2, ensure_ascii=False) + "\n"


def _describe(properties: dict[str, Any], field: str, text: str) -> None:
    """Give a property its description; a bare reference is wrapped, for older editors ignore
    what stands beside `$ref`."""
    found = properties[field]
    if "$ref" in found:
        default = {"default": found["default"]} if "default" in found else {}
        found = {"allOf": [{"$ref": found["$ref"]}], **default}
    properties[field] = {"description": text, **found}


def field_texts(module: ModuleType) -> dict[str, dict[str, str]]:
    """Docstrings under the fields of each class of a module, white space folded."""
    texts: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        fields = texts.setdefault(node.name, {})
        for before, after in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(before, ast.AnnAssign)
                and isinstance(before.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                fields[before.target.id] = " ".join(str(after.value.value).split())
    return texts


def main(arguments: list[str]) -> None:
    """Write the schema to the path given, or to `profiles/schema.json`."""
    path = Path(arguments[0]) if arguments else shipped_dir() / "schema.json"
    write_atomic(path, schema_text().encode(), mode=0o644)


if __name__ == "__main__":
    main(sys.argv[1:])
