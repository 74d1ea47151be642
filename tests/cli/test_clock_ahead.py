"""Files of a clock that was ahead: nothing waits for their time to come."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from launcher.app import prune
from launcher.model import hub_cache
from launcher.paths import dirs


@pytest.mark.parametrize(
    ("ahead_s", "busy"), [(10 * 365 * 86_400, False), (-86_400, False), (0, True)]
)
def test_a_half_download_of_a_clock_that_was_ahead_can_be_removed(
    ahead_s: int, busy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counted as written just now, for years."""
    part = tmp_path / "x.incomplete"
    part.write_bytes(b"half")
    written = time.time() + ahead_s
    os.utime(part, (written, written))
    monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(hub_cache, "partials", lambda: iter([(part, False)]))
    (item,) = [one for one in prune.find(dirs(), keep=1, kinds=["leftovers"]) if one.path == part]
    assert bool(item.used_by) is busy
