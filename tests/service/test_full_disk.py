"""A disk that is full before a start, or fills during it: a sentence with the path, in time."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.errors import QlaunchError
from launcher.service import control
from tests.service.home import Home, eventually


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """The state's folder: a file system of 256 KiB, where one may be mounted."""
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(disk: Path) -> Path:
    """Take what is left, to the last byte."""
    file = disk / "fill"
    with file.open("wb", buffering=0) as out:
        try:
            while True:
                out.write(b"x" * 4096)
        except OSError:
            return file


def test_a_start_on_a_full_disk_is_refused_with_the_path(small: Path, home: Home) -> None:
    fill(small)
    with pytest.raises(QlaunchError) as caught:
        home.up(home.plan())
    assert caught.value.code == "state_not_written"
    assert str(small) in caught.value.message
    assert "No space left on device" in caught.value.message
    assert "free space there" in str(caught.value.fix)


def test_a_disk_that_fills_during_a_start_ends_it_soon(small: Path, home: Home) -> None:
    """The service could never be told to be ready: nobody may wait for it for ever."""
    call = home.up_beside(home.plan("--slow-start", "2"))
    home.wait_for("loading")
    full = fill(small)
    error = call.join().error
    assert isinstance(error, QlaunchError)
    assert error.code == "state_not_written"
    assert "No space left on device" in error.message
    assert eventually(lambda: not home.processes()) is True
    full.unlink()


def test_a_disk_that_fills_under_a_running_service_does_not_end_it(small: Path, home: Home) -> None:
    state = home.up(home.plan())
    full = fill(small)
    time.sleep(1.0)  # some looks and samples
    assert control.status("svc").state == "ready"
    assert control.status("svc").engine == state.engine
    assert control.down("svc").left == ()
    full.unlink()
