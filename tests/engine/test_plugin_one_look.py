"""Copies of what was hooked are replaced in one look at the modules, as by SGLang's own many."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from launcher.engine import command

if str(command.PLUGIN) not in sys.path:
    sys.path.append(str(command.PLUGIN))

from qlaunch_sglang import one_look

NAMES = ("source", "importer", "bystander")


class World:
    """SGLang's registry as it works, with modules that import from each other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("sglang", "sglang.srt", "sglang.srt.plugins"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        self.plugins = ModuleType("sglang.srt.plugins.hook_registry")
        monkeypatch.setitem(sys.modules, self.plugins.__name__, self.plugins)
        sys.modules["sglang.srt.plugins"].__dict__["hook_registry"] = self.plugins
        self.modules = [ModuleType(f"one_look_{name}") for name in NAMES]
        for module in self.modules:
            monkeypatch.setitem(sys.modules, module.__name__, module)
        self.source, self.importer, self.bystander = (module.__dict__ for module in self.modules)
        self.source |= {"first": lambda: "old 1", "second": lambda: "old 2"}
        self.importer |= {"first": self.source["first"], "alias": self.source["second"]}
        self.bystander |= {"first": lambda: "another's", "number": 7}
        self.looks = 0
        world = self

        def propagate(original: object, wrapped: object, source: object) -> int:
            world.looks += 1
            one_look.replace_copies({id(original): (original, wrapped, source)})
            return 0

        class HookRegistry:
            @classmethod
            def apply_hooks(cls) -> str:
                for name in ("first", "second"):
                    original = world.source[name]
                    world.source[name] = wrapped = lambda name=name: f"new {name}"
                    self.plugins.__dict__["_propagate_patch"](original, wrapped, world.modules[0])
                return "applied"

        self.plugins.__dict__.update(HookRegistry=HookRegistry, _propagate_patch=propagate)

    def apply(self) -> Any:
        return self.plugins.__dict__["HookRegistry"].apply_hooks()

    def said(self) -> list[str]:
        found = [self.importer["first"](), self.importer["alias"](), self.bystander["first"]()]
        return [*found, self.source["first"]()]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_all_copies_are_replaced_as_one_by_one(world: World) -> None:
    one_look.register()
    assert world.apply() == "applied"
    assert world.said() == ["new first", "new second", "another's", "new first"]
    assert (world.looks, world.bystander["number"]) == (0, 7)


def test_the_next_round_is_sglangs_own(world: World) -> None:
    """`load_plugins` runs in every process; what it finds must be what SGLang made."""
    one_look.register()
    world.apply()
    world.apply()
    assert world.looks == 2


def test_an_sglang_without_these_is_left_alone(world: World) -> None:
    del world.plugins.__dict__["_propagate_patch"]
    before = world.plugins.__dict__["HookRegistry"].apply_hooks
    one_look.register()
    assert world.plugins.__dict__["HookRegistry"].apply_hooks == before
