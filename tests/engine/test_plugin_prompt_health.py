"""`/health` answers when the scheduler has."""

from __future__ import annotations

import asyncio
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest

from launcher.engine import command

if str(command.PLUGIN) not in sys.path:
    sys.path.append(str(command.PLUGIN))

from qlaunch_sglang import prompt_health

LONG_S = 600.0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """SGLang's server module as the hook finds it, with the hook in place."""
    module = ModuleType(prompt_health._SERVER)
    manager = SimpleNamespace(last_receive_tstamp=time.time() - 60)
    module.__dict__.update(
        asyncio=asyncio, _global_state=SimpleNamespace(tokenizer_manager=manager)
    )
    monkeypatch.setitem(sys.modules, prompt_health._SERVER, module)
    assert prompt_health._around(lambda *args: args, 1, 2) == (1, 2)
    return module


def test_a_sleep_ends_with_the_schedulers_answer(server: ModuleType) -> None:
    manager = server._global_state.tokenizer_manager

    async def answered() -> object:
        async def answer() -> None:
            manager.last_receive_tstamp = time.time() + 1

        task = asyncio.create_task(answer())
        result = await server.asyncio.sleep(LONG_S, "slept")
        await task
        return result

    assert asyncio.run(asyncio.wait_for(answered(), LONG_S / 2)) == "slept"


def test_without_an_answer_it_is_whole(server: ModuleType) -> None:
    began = time.monotonic()
    asyncio.run(server.asyncio.sleep(0.15))
    assert time.monotonic() - began >= 0.15


@pytest.mark.parametrize("gone", ["_global_state", "tokenizer_manager", "last_receive_tstamp"])
def test_a_release_that_keeps_no_such_time_sleeps(server: ModuleType, gone: str) -> None:
    owner = {
        "_global_state": server,
        "tokenizer_manager": server._global_state,
        "last_receive_tstamp": server._global_state.tokenizer_manager,
    }[gone]
    delattr(owner, gone)
    began = time.monotonic()
    asyncio.run(server.asyncio.sleep(0.05))
    assert time.monotonic() - began >= 0.05


def test_all_else_is_asyncios_own(server: ModuleType) -> None:
    assert server.asyncio.create_task is asyncio.create_task
    with pytest.raises(AttributeError):
        server.asyncio.nothing  # noqa: B018 - read for its error


def test_an_engine_without_a_server_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, prompt_health._SERVER, raising=False)
    assert prompt_health._around(lambda: "set") == "set"
