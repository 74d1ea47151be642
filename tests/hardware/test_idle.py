from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from launcher.hardware.idle import idle_share


def stat(root: Path, line: str) -> None:
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc/stat").write_text(f"{line}\ncpu0 1 2 3\n")


def test_this_machine_has_a_share() -> None:
    share = idle_share(0.1)
    assert share is not None
    assert 0 <= share <= 1


def test_idle_and_waiting_for_disks_count_as_idle(tmp_path: Path) -> None:
    stat(tmp_path, "cpu  100 0 100 700 100 0 0 0 50 0")

    def later() -> None:
        time.sleep(0.05)
        stat(tmp_path, "cpu  110 0 110 770 110 0 0 0 50 0")

    thread = threading.Thread(target=later)
    thread.start()
    assert idle_share(0.3, tmp_path) == 0.8
    thread.join()


@pytest.mark.parametrize("line", ["", "cpu", "cpu a b c d e f g h", "cpu  1 2 3 4 5 6 7 8"])
def test_what_cannot_be_told_is_none(tmp_path: Path, line: str) -> None:
    stat(tmp_path, line)
    assert idle_share(0.0, tmp_path) is None
    assert idle_share(0.0, tmp_path / "nowhere") is None
