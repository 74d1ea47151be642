"""The scheduler's sleep, after which it gives back what large batches took."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.engine import command

if str(command.PLUGIN) not in sys.path:
    sys.path.append(str(command.PLUGIN))

from qlaunch_sglang import trimming

MIB = 1024 * 1024


def sleeper(monkeypatch: pytest.MonkeyPatch, resident: list[int | None]) -> tuple[Any, list[int]]:
    """A sleep that takes the seconds it is told, with these sizes at each look."""
    now = [0.0]
    trims: list[int] = []
    monkeypatch.setattr(trimming.time, "monotonic", lambda: now[0])
    hook = trimming.Trimming(trims.append, lambda: resident.pop(0), None)

    def sleep(seconds: float) -> str:
        now[0] += seconds
        return "woken"

    return (lambda seconds: hook(sleep, seconds)), trims


def test_idle_once_and_again_after_much_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int | None] = [500 * MIB, 400 * MIB, 410 * MIB, 700 * MIB, 405 * MIB, 405 * MIB]
    sleep, trims = sleeper(monkeypatch, sizes)
    assert sleep(1.0) == "woken"
    assert len(trims) == 1
    sleep(0.2)  # woken by a request: no look
    sleep(1.0)  # little was taken
    assert len(trims) == 1
    sleep(1.0)
    assert len(trims) == 2
    sleep(1.0)
    assert len(trims) == 2
    assert sizes == []


def test_what_is_freed_is_kept_from_the_first_sleep_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it the weights are loaded, whose copies go back; later nothing changes any more."""
    kept: list[str] = []
    monkeypatch.setattr(trimming.time, "monotonic", lambda: 0.0)
    hook = trimming.Trimming(lambda _: None, lambda: 0, lambda: kept.append("asked"))
    assert kept == []
    for _ in range(3):
        hook(lambda: None)
    assert kept == ["asked"]


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("", [(-1, 32 * MIB), (-3, 32 * MIB)]),
        ("MALLOC_TRIM_THRESHOLD_", []),
        ("GLIBC_TUNABLES", []),
    ],
)
def test_a_profile_s_own_word_on_memory_holds(
    name: str, asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[int, int]] = []
    c_library = SimpleNamespace(mallopt=lambda number, value: said.append((number, value)))
    monkeypatch.setattr(trimming.ctypes, "CDLL", lambda _: c_library)
    for each in trimming._VARIABLES:
        monkeypatch.delenv(each, raising=False)
    if name:
        monkeypatch.setenv(name, "65536")
    trimming.keep()
    assert said == asked


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trimming.ctypes, "CDLL", lambda _: SimpleNamespace())
    trimming.keep()


def test_where_the_system_does_not_tell_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    sleep, trims = sleeper(monkeypatch, [None])
    sleep(1.0)
    assert trims == []


def test_its_own_size_is_known_here() -> None:
    assert trimming.resident_bytes() > MIB
