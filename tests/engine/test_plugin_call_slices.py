"""The texts of a call are read in slices, as if they were one."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.engine import command

if str(command.PLUGIN) not in sys.path:
    sys.path.append(str(command.PLUGIN))

from qlaunch_sglang import call_slices

from tests.engine.guarding import tokens


class Manager:
    """Reads texts as SGLang's front does: a call of so many, each by its number."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    async def read(self, count: int, call: Any) -> list[str]:
        """The texts, in capitals; a bad one ends it."""
        self.counts.append(count)
        texts = [call[number] for number in range(count)]
        if "bad" in texts:
            raise ValueError("one is bad")
        return [text.upper() for text in texts]


def _read(manager: Manager, texts: list[str]) -> list[str]:
    around: Any = call_slices._around(Manager.read, manager, len(texts), texts)
    read: list[str] = asyncio.run(around)
    return read


@pytest.mark.parametrize("count", [1, 63, 64, 65, 128, 200])
def test_a_call_is_read_in_slices_and_in_order(count: int) -> None:
    manager = Manager()
    texts = [f"text {number}" for number in range(count)]
    assert _read(manager, texts) == [text.upper() for text in texts]
    assert sum(manager.counts) == count
    assert max(manager.counts) == min(count, call_slices.TEXTS)
    assert len(manager.counts) == -(-count // call_slices.TEXTS)


def test_a_text_that_is_refused_ends_it_in_its_slice() -> None:
    """All two thousand were read before the first was refused: two seconds."""
    manager = Manager()
    with pytest.raises(ValueError, match="one is bad"):
        _read(manager, ["bad", *(["good"] * 500)])
    assert manager.counts == [64]


def test_each_text_knows_its_number() -> None:
    """A text that was too long was one of two thousand, and nothing told which."""
    assert call_slices.NUMBER == tokens.NUMBER
    call = call_slices.Slice([SimpleNamespace() for _ in range(70)], 64)
    assert getattr(call[3], tokens.NUMBER) == 67


def test_others_are_answered_between_two_slices() -> None:
    seen: list[int] = []
    manager = Manager()

    async def beside() -> None:
        while True:
            seen.append(len(manager.counts))
            await asyncio.sleep(0)

    async def both() -> None:
        other = asyncio.create_task(beside())
        around: Any = call_slices._around(Manager.read, manager, 300, ["x"] * 300)
        await around
        other.cancel()

    asyncio.run(both())
    assert {1, 2, 3, 4} <= set(seen)
