from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from launcher.hardware.nvml import Unavailable
from launcher.record.watch import ResourceWatch
from tests.patience import PATIENCE_S

GROWS = """
import sys, time
print(flush=True)
sys.stdin.readline()
held = b"x" * 80_000_000
print(flush=True)
sys.stdin.readline()
held = b""
print(flush=True)
time.sleep(60)
"""


class Cards:
    """NVML that knows what is in use, and of no process."""

    spent_s = 0.0
    closed = False

    def process_memory(self) -> dict[int, int | None]:
        return self.processes

    def device_used(self) -> dict[str, int] | Unavailable:
        return {"GPU-0": 5_000_000_000}

    def close(self) -> None:
        self.closed = True

    def __init__(self, processes: dict[int, int | None]) -> None:
        self.processes = processes


def test_a_peak_between_two_looks_is_seen_and_the_thread_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("launcher.record.sampler.STARTING_INTERVAL_S", 0.05)
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", GROWS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()

        def tell() -> None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
            process.stdout.readline()

        with ResourceWatch(process.pid, gpu=False) as found:
            small = found.peak().ram_peak_bytes
            tell()
            deadline = time.monotonic() + PATIENCE_S
            while (found.peak().ram_peak_bytes or 0) < 80_000_000:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            tell()
        process.kill()
    assert small is not None
    assert small < 60_000_000
    peak = found.peak()
    assert peak.ram_peak_bytes is not None
    assert peak.ram_peak_bytes > 80_000_000
    assert peak.method["ram"] in ("pss", "rss")
    assert peak.method["gpu_reason"] == "the engine runs on the CPU"
    assert not [each for each in threading.enumerate() if each.name == "memory watch"]


def test_a_process_that_is_gone_gives_reasons() -> None:
    done = subprocess.Popen([sys.executable, "-S", "-c", ""])
    done.wait()
    with ResourceWatch(done.pid, gpu=False) as found:
        pass
    peak = found.peak()
    assert peak.ram_peak_bytes is None
    assert peak.method["ram_reason"] == "no process of the engine is left"


def test_without_a_process_nothing_is_sampled() -> None:
    with ResourceWatch(None, gpu=True) as found:
        pass
    assert found.peak().ram_peak_bytes is None
    assert found.peak().method["gpu_reason"] == "the process of the engine is not known"


def test_memory_of_the_cards_counts_where_processes_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cards = Cards({os.getpid(): 3_000_000_000})
    monkeypatch.setattr("launcher.hardware.nvml.open_nvml", lambda: cards)
    with ResourceWatch(os.getpid(), gpu=True) as found:
        pass
    assert found.peak().gpu_peak_bytes == 3_000_000_000
    assert found.peak().method["gpu"] == "per_process"
    assert cards.closed


def test_a_difference_to_the_middle_of_a_life_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.hardware.nvml.open_nvml", lambda: Cards({}))
    with ResourceWatch(os.getpid(), gpu=True) as found:
        pass
    peak = found.peak()
    assert peak.gpu_peak_bytes is None
    assert peak.method["gpu"] == "unavailable"
    assert "before the engine started is not known" in peak.method["gpu_reason"]
    assert peak.ram_peak_bytes is not None
