"""The front hears of SIGTERM at once, and answers what is open before it ends."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.engine import command

if str(command.PLUGIN) not in sys.path:
    sys.path.append(str(command.PLUGIN))

from qlaunch_sglang import prompt_stop


class Manager:
    """What the hook reads of SGLang's tokenizer manager."""

    def __init__(self, *, status: str = "Up") -> None:
        self.gracefully_exit = False
        self.rid_to_state: dict[str, Any] = {"a": 1}
        self.server_status = SimpleNamespace(name=status)


async def course(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens in which order, a step each time that the hook waits."""
    seen: list[str] = []
    real = asyncio.sleep

    async def sleep(_seconds: float) -> None:
        seen.append("waited")
        if not manager.gracefully_exit:
            manager.gracefully_exit = True
        else:
            manager.rid_to_state.clear()
        await real(0)

    async def own(found: Manager) -> str:
        seen.append(f"its own loop, {len(found.rid_to_state)} open")
        return "ended"

    monkeypatch.setattr(prompt_stop.asyncio, "sleep", sleep)
    assert await prompt_stop.around(own, manager) == "ended"
    return seen


def test_what_is_open_is_answered_first(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = asyncio.run(course(Manager(), monkeypatch))
    assert seen == ["waited", "waited", "its own loop, 0 open"]


def test_one_that_is_ailing_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = asyncio.run(course(Manager(status="UnHealthy"), monkeypatch))
    assert seen == ["waited", "its own loop, 1 open"]
