"""A disk that failed and was made read-only: what runs on can be stopped, and nothing is advised
that does not help."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import QlaunchError
from launcher.gateway.access import secret
from launcher.linux.removal import discard
from launcher.service import control, store
from tests.service.home import Home


@pytest.fixture
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is opened for writing any more; `up.lock` is there."""
    (tmp_path / "up.lock").touch()
    real = os.open

    def refusing(path: Any, flags: int, *args: Any, **more: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real(path, flags, *args, **more)

    monkeypatch.setattr(os, "open", refusing)


@pytest.fixture
def failing(home: Home, tmp_path: Path) -> Iterator[Path]:
    """The state's folder: an ext4 of its own, where one may be mounted; gone before `home` is."""
    path, image = tmp_path / "state", tmp_path / "image"
    path.mkdir(mode=0o700)
    with image.open("wb") as file:
        file.truncate(16 << 20)
    for words in (["mkfs.ext4", "-q", str(image)], ["mount", "-o", "loop", str(image), str(path)]):
        if shutil.which(words[0]) is None:
            pytest.skip(f"{words[0]} is not there")
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    path.chmod(0o700)
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_service_that_was_stopped_on_a_disk_that_failed(failing: Path, home: Home) -> None:
    """It was called failed because no state can be kept, though `down` had ended it in order."""
    home.up(home.plan())
    subprocess.run(["mount", "-o", "remount,abort", str(failing)], check=True)
    with pytest.raises(OSError, match="Read-only"):
        (failing / "file").touch()
    assert control.status("svc").state == "ready"
    assert control.down("svc").left == ()
    assert not home.processes()
    state = control.status("svc")
    assert state.failure is not None
    assert state.failure.message.startswith("it has ended, and how it ended could not be written")
    assert "Read-only file system" in state.detail
    assert control.down("svc").left == ()
    with pytest.raises(QlaunchError) as caught:
        discard(failing / "services" / "svc")
    assert caught.value.fix == "make its disk writable"


@pytest.mark.usefixtures("read_only")
def test_a_lock_that_is_there_is_taken_on_a_read_only_disk(tmp_path: Path) -> None:
    """`down` ended with 1: a service could not be stopped."""
    path = tmp_path / "up.lock"
    with store.Lock(path) as first, store.Lock(path) as second:
        assert first.acquire()
        assert not second.acquire()
        first.release()
        assert second.acquire()


@pytest.mark.usefixtures("read_only")
def test_a_lock_that_is_not_there_is_refused_as_read_only(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Read-only") as caught:
        store.Lock(tmp_path / "lock").acquire()
    fix = store.not_lockable(tmp_path / "lock", caught.value).fix or ""
    assert fix.startswith("make its disk writable")
    fix = store.not_written(tmp_path, caught.value).fix or ""
    assert fix.startswith("make its disk writable")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert (store.not_written(tmp_path, full).fix or "").startswith("free space")


def test_a_key_that_finds_no_room_leaves_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It advised to remove a key that is not there, and left an empty file."""

    def full(_count: int) -> bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "urandom", full)
    with pytest.raises(QlaunchError, match=r"cannot be used: No space left on device$") as caught:
        secret(tmp_path / "cache.key")
    assert (caught.value.fix or "").startswith("make room there")
    assert list(tmp_path.iterdir()) == []
