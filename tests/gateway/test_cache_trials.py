"""The trials that other proxies are put to, of our own: it passes all nine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.gateway import cache_trials
from tests.gateway.conftest import free_port
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]


def test_the_gateway_passes_all_nine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(cache_trials, "SETTLE_S", 0.2)
    monkeypatch.setattr(cache_trials, "LIMIT_S", PATIENCE_S)
    upstream, redis, port = free_port(), free_port(), free_port()
    words = [sys.executable, "-m", "launcher", "gateway", f"m=http://127.0.0.1:{upstream}/v1"]
    words += ["--port", str(port), "--cache", f"redis://127.0.0.1:{redis}/0"]
    outcomes = cache_trials.run_against(words, f"http://127.0.0.1:{port}/v1", upstream, redis)
    assert len(outcomes) == 9
    assert set(outcomes.values()) == {"ok"}, outcomes
