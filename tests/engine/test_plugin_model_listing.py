"""transformers' table of its models, kept beside its bytecode."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.engine import command

if str(command.PLUGIN) not in sys.path:
    sys.path.append(str(command.PLUGIN))

from qlaunch_sglang import model_listing

FOUND = {
    "bert": {
        frozenset(): {"configuration_bert": {"BertConfig"}},
        frozenset({"torch", "vision"}): {"modeling_bert": {"BertModel", "BertLayer"}},
    },
    frozenset(): {"odd": set()},
}


class Package:
    """A package like transformers, of which each process imports its own `import_utils`."""

    def __init__(self, root: Path) -> None:
        self.models = root / "transformers" / "models"
        self.utils = root / "transformers" / "utils" / "import_utils.py"
        for file in (self.utils, self.models / "__init__.py", self.models / "bert" / "bert.py"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("x = 1\n")
        self.table = self.models / "__pycache__" / model_listing.FILE
        self.made: list[str] = []

    def imported(self) -> Any:
        """`create_import_structure_from_path` of a process that has just begun."""

        def create_import_structure_from_path(module_path: str) -> Any:
            self.made.append(str(module_path))
            return FOUND if Path(module_path) == self.models else {"a": "folder"}

        maker = create_import_structure_from_path
        utils = SimpleNamespace(__file__=str(self.utils), create_import_structure_from_path=maker)
        model_listing.keep(utils)
        return utils.create_import_structure_from_path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    return Package(tmp_path)


def test_a_process_makes_the_table_once_and_the_next_ones_read_it(package: Package) -> None:
    first = package.imported()
    assert first(package.models) == first(str(package.models / "__init__.py")) == FOUND
    assert package.made == [str(package.models)]
    assert stat.S_IMODE(package.table.stat().st_mode) == 0o644
    assert package.imported()(package.models) == FOUND
    assert len(package.made) == 1
    assert [each.name for each in package.table.parent.iterdir()] == [package.table.name]


def test_other_folders_are_read_as_ever(package: Package) -> None:
    ask = package.imported()
    assert ask(package.models / "bert") == ask(str(package.models / "bert")) == {"a": "folder"}
    assert len(package.made) == 2
    assert not package.table.exists()


@pytest.mark.parametrize("change", ["longer", "later", "more", "less", "maker"])
def test_a_table_of_other_files_is_made_anew(package: Package, change: str) -> None:
    package.imported()(package.models)
    file = package.models / "bert" / "bert.py"
    if change == "longer":
        file.write_text("y = 10\n")
    elif change == "later":
        os.utime(file, ns=(1, 1))
    elif change == "more":
        (package.models / "bert" / "other.py").write_text("")
    elif change == "less":
        file.unlink()
    else:
        package.utils.write_text("another maker\n")
    assert package.imported()(package.models) == FOUND
    assert len(package.made) == 2
    package.imported()(package.models)
    assert len(package.made) == 2


def test_bytecode_that_comes_into_a_folder_changes_nothing(package: Package) -> None:
    package.imported()(package.models)
    (package.models / "bert" / "__pycache__").mkdir()
    os.utime(package.models / "bert", ns=(1, 1))
    package.imported()(package.models)
    assert len(package.made) == 1


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "null", '{"stamp": 1}', "\xff", "listing", "folders", "needs"]
)
def test_a_damaged_table_is_made_anew(package: Package, damage: str) -> None:
    package.imported()(package.models)
    kept = json.loads(package.table.read_bytes())
    if damage == "listing":
        del kept["listing"]
    elif damage in ("folders", "needs"):
        kept["listing"][damage] = 5
    whole = damage in ("listing", "folders", "needs")
    package.table.write_bytes(json.dumps(kept).encode() if whole else damage.encode("latin-1"))
    assert package.imported()(package.models) == FOUND
    assert len(package.made) == 2
    assert json.loads(package.table.read_bytes())["listing"]["folders"]


def test_where_no_bytecode_is_written_neither_is_the_table(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert package.imported()(package.models) == FOUND
    assert not package.table.parent.exists()


@pytest.mark.parametrize("place", ["a file where the folder should be", "no room"])
def test_where_it_cannot_be_written_it_is_made_by_each_process(
    package: Package, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    if place == "no room":

        def full(_from: str, _to: str) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", full)
    else:
        package.table.parent.write_text("")
    for _ in range(2):
        assert package.imported()(package.models) == FOUND
    assert len(package.made) == 2
    assert not package.table.exists()
    if package.table.parent.is_dir():
        assert list(package.table.parent.iterdir()) == []


def test_a_table_of_an_unknown_shape_is_passed_on_and_not_kept(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = {("a", "tuple"): 3}
    monkeypatch.setitem(FOUND, "odd", odd)
    assert package.imported()(package.models)["odd"] == odd
    assert not package.table.exists()


def test_without_models_or_without_the_function_nothing_is_changed(package: Package) -> None:
    older = SimpleNamespace(__file__=str(package.utils))
    model_listing.keep(older)
    assert not hasattr(older, "create_import_structure_from_path")
