"""File systems without flock: the kernel's other locks, or one sentence (NFS, FUSE)."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.errors import QlaunchError
from launcher.linux import locks
from launcher.service import control, store
from launcher.service.store import Lock
from tests.children import running

ROOT = Path(__file__).parents[2]
SITE = """
import errno, fcntl, os
def refused(*arguments):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
fcntl.flock = refused
if os.environ.get("NO_LOCKS_AT_ALL"):
    real = fcntl.fcntl
    fcntl.fcntl = lambda fd, what, *rest: (
        refused() if what == fcntl.F_OFD_SETLK else real(fd, what, *rest)
    )
"""


@pytest.fixture(params=sorted(locks.NO_LOCKS), ids=errno.errorcode.get)
def no_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    code: int = request.param

    def refused(_fd: int, _how: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refused)
    return code


@pytest.fixture
def no_locks(no_flock: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., object] = fcntl.fcntl

    def refused(fd: int, what: int, *rest: object) -> object:
        if what == fcntl.F_OFD_SETLK:
            raise OSError(no_flock, os.strerror(no_flock))
        return real(fd, what, *rest)

    monkeypatch.setattr(fcntl, "fcntl", refused)


def test_a_lock_excludes_without_flock_too(no_flock: int, tmp_path: Path) -> None:
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert first.acquire()
    assert not second.acquire()
    # Unlike the older kind of POSIX, it survives that the file is read and closed meanwhile.
    (tmp_path / "lock").read_bytes()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()


def test_such_a_lock_ends_with_its_holder(no_flock: int, tmp_path: Path) -> None:
    program = (
        "import os, sys; from launcher.linux import locks\n"
        "fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "assert locks._take_description(fd); print('held', flush=True); sys.stdin.read()\n"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "lock")]
    with running(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert not Lock(tmp_path / "lock").acquire()
        holder.kill()
        holder.wait()
    mine = Lock(tmp_path / "lock")
    assert mine.acquire(wait_s=5.0)
    mine.release()


def test_without_any_locks_it_is_one_sentence(no_locks: None, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=locks.WITHOUT):
        Lock(tmp_path / "lock").acquire()
    with (
        pytest.raises(OSError, match=locks.WITHOUT) as caught,
        locks.held(tmp_path / "lock", lambda: None),
    ):
        pass
    assert caught.value.filename == str(tmp_path / "lock")


def test_a_start_or_stop_names_the_folder_and_what_to_do(
    no_locks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path))
    where = store.folder("one", create=True)
    with pytest.raises(QlaunchError, match=locks.WITHOUT) as caught:
        control.down("one")
    assert str(where.up_lock) in caught.value.message
    assert "QLAUNCH_HOME" in (caught.value.fix or "")
    assert caught.value.exit_code == 1


def test_doctor_can_ask_without_leaving_anything(tmp_path: Path) -> None:
    assert locks.unsupported(tmp_path) is None
    assert locks.unsupported(tmp_path / "none") is None
    assert list(tmp_path.iterdir()) == []


def test_doctor_says_so(no_locks: None, tmp_path: Path) -> None:
    assert locks.unsupported(tmp_path) == locks.WITHOUT


def test_the_command_line_without_locks(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    env = os.environ | {
        "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}",
        "QLAUNCH_HOME": str(tmp_path / "home"),
        "NO_LOCKS_AT_ALL": "1",
    }
    words = [sys.executable, "-m", "launcher", "engine", "install", "cpu"]
    done = subprocess.run(words, env=env, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 5
    assert locks.WITHOUT in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
