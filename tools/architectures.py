"""Record which classes an SGLang release serves, from that release's own source.

    python tools/architectures.py sglang-0.5.23-*.whl [MORE.whl or site-packages ...]

Writes `launcher/engine/architectures/<version>.json`: the names of every `EntryClass` below
srt/models, which is what SGLang's registry knows. Nothing is executed, the modules are parsed.
"""

from __future__ import annotations

import ast
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "launcher" / "engine" / "architectures"


def sources(place: Path) -> Iterator[str]:
    """Texts of the model files of a wheel or a site-packages folder."""
    if place.is_dir():
        for path in sorted((place / "sglang" / "srt" / "models").glob("*.py")):
            yield path.read_text("utf-8-sig")
        return
    with zipfile.ZipFile(place) as wheel:
        for name in sorted(wheel.namelist()):
            folder, _, file = name.rpartition("/")
            if folder == "sglang/srt/models" and file.endswith(".py"):
                yield wheel.read(name).decode("utf-8-sig")


def version(place: Path) -> str:
    """SGLang's version in `place`."""
    name = place.name if place.is_file() else next(place.glob("sglang-*.dist-info")).name
    return name.split("-")[1].removesuffix(".dist")


def entries(source: str) -> Iterator[str]:
    """Names that a model file offers as `EntryClass`, directly or by a list."""
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if not any(isinstance(each, ast.Name) and each.id == "EntryClass" for each in targets):
            continue
        assert isinstance(node, ast.Assign)
        found = node.value.elts if isinstance(node.value, ast.List | ast.Tuple) else [node.value]
        yield from (ast.unparse(each).rpartition(".")[2] for each in found)


def main() -> None:
    """Write the record of every release named."""
    FOLDER.mkdir(exist_ok=True)
    for place in map(Path, sys.argv[1:]):
        names = sorted({name for source in sources(place) for name in entries(source)})
        text = json.dumps({"sglang": version(place), "classes": names}, indent=2)
        (FOLDER / f"{version(place)}.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
