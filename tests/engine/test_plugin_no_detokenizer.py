"""Vectors on their short way from the scheduler to the front."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.engine import command

if str(command.PLUGIN) not in sys.path:
    sys.path.append(str(command.PLUGIN))

from qlaunch_sglang import no_detokenizer


class Channels:
    """As SGLang's: told whether to leave the detokenizer out."""

    @classmethod
    def create(cls, *, port_args: str, skip_tokenizer_init: bool) -> tuple[str, bool]:
        return port_args, skip_tokenizer_init


class OldChannels:
    @classmethod
    def create(cls, port_args: str) -> str:
        return port_args


class Engine:
    @classmethod
    def _launch_detokenizer_subprocesses(cls) -> tuple[list[str], list[str]]:
        return ["a process"], ["detokenizer"]


def registered(monkeypatch: pytest.MonkeyPatch, channels: Any, asked: str) -> dict[str, Any]:
    """The hooks that are made, by their target."""
    hooks: dict[str, Any] = {}
    registry = SimpleNamespace(register=lambda target, hook, _kind: hooks.update({target: hook}))
    ways: dict[str, Any] = {
        no_detokenizer._SENDER: channels.create,
        no_detokenizer._STARTER: Engine._launch_detokenizer_subprocesses,
    }
    monkeypatch.setattr(no_detokenizer.pkgutil, "resolve_name", ways.__getitem__)
    for name in ("sglang", "sglang.srt", "sglang.srt.plugins"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__path__=[]))
    hook_registry = SimpleNamespace(
        HookRegistry=registry, HookType=SimpleNamespace(AROUND="around")
    )
    monkeypatch.setitem(sys.modules, "sglang.srt.plugins.hook_registry", hook_registry)
    monkeypatch.setenv(no_detokenizer.VARIABLE, asked)
    no_detokenizer.register()
    return hooks


def test_the_scheduler_sends_to_the_front_and_no_detokenizer_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hooks = registered(monkeypatch, Channels, "none")
    send, start = hooks[no_detokenizer._SENDER], hooks[no_detokenizer._STARTER]
    assert send(Channels.create, port_args="p", skip_tokenizer_init=False) == ("p", True)
    assert start(Engine._launch_detokenizer_subprocesses) == ([], [])


def test_an_engine_with_one_end_alone_keeps_its_detokenizer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert registered(monkeypatch, OldChannels, "none") == {}


def test_nothing_is_changed_unless_the_launcher_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert registered(monkeypatch, Channels, "") == {}
