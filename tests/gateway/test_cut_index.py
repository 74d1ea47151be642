"""An index of the cache's log (`-shm`) that something cut while it was mapped: no SIGBUS."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

ENTRIES = """
import os, sys
from pathlib import Path
from launcher.gateway.backends.backend import CacheSettings
from launcher.gateway.backends.sqlite import SqliteBackend

path, cut = Path(sys.argv[1]), int(sys.argv[2])
kept = {bytes([n]) * 48: os.urandom(4000) for n in range(200)}
stores = [SqliteBackend(path, CacheSettings(url="", max_bytes=64 << 20)) for _ in range(2)]
stores[0].set_many(kept)
index = path.with_name(path.name + "-shm")
whole = index.stat().st_size
for turn in range(3):
    os.truncate(index, cut)
    for store in stores:
        found = store.get_many(list(kept))
        assert found == list(kept.values()), (turn, found.count(None))
    assert index.stat().st_size >= whole
    os.truncate(index, cut)
    more = {bytes([turn]) * 49: b"more"}
    stores[1].set_many(more)
    kept |= more
os.truncate(index, cut)
for store in stores:
    store.close()
again = SqliteBackend(path, CacheSettings(url="", max_bytes=64 << 20))
assert again.get_many(list(kept)) == list(kept.values())
"""


@pytest.mark.parametrize("cut", [0, 3, 100, 4096])
def test_an_index_that_was_cut_under_a_running_gateway_ends_nothing(
    cut: int, tmp_path: Path
) -> None:
    """`: > cache.db-shm` ended the process by SIGBUS at the next text."""
    done = subprocess.run(
        [sys.executable, "-c", ENTRIES, str(tmp_path / "v.db"), str(cut)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
