"""The engine's temporary folder: short enough for sockets, private, gone in the end (case 6)."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.errors import QlaunchError
from launcher.service import scratch

ROOT = Path(__file__).parents[2]
HOLD = """
import os, sys, time
from pathlib import Path
from launcher.service import scratch
made = scratch.make(os.environ, spare=Path(sys.argv[1]))
print(made.path, flush=True)
time.sleep(600)
"""


def test_a_good_tmpdir_is_used_and_the_folder_is_private(tmp_path: Path) -> None:
    base = Path(os.path.realpath("/tmp")) / f"b{os.getpid()}"
    base.mkdir()
    try:
        with scratch.scratch({"TMPDIR": str(base)}, spare=tmp_path) as path:
            assert path.parent == base
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
            assert list(path.iterdir()) == []
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path / scratch.INSIDE.replace("/", "-")))
        assert list(base.iterdir()) == []
    finally:
        base.rmdir()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("x" * 100, "too long for sockets"),
        ("has blanks", "blanks or unusual letters"),
        ("模型", "blanks or unusual letters"),
        ("missing", "no folder"),
    ],
)
def test_a_tmpdir_that_cannot_hold_sockets_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, why: str
) -> None:
    # A root short enough for every name but the long one.
    base = Path("/tmp") / f"q{os.getpid()}"
    base.mkdir()
    try:
        folder = base / name
        if name != "missing":
            folder.mkdir()
        assert why in (scratch.unfit({"TMPDIR": str(folder)}) or "")
        with scratch.scratch({"TMPDIR": str(folder)}, spare=tmp_path) as path:
            assert path.parent != folder
            assert len(os.fsencode(path / scratch.INSIDE)) <= scratch.SOCKET_BYTES
        if name != "missing":
            folder.rmdir()
    finally:
        base.rmdir()


def test_a_relative_or_unset_tmpdir_is_no_reason_to_fail(tmp_path: Path) -> None:
    assert scratch.unfit({}) is None
    assert scratch.unfit({"TMPDIR": "tmp"}) == "not an absolute path"
    with scratch.scratch({"TMPDIR": "tmp"}, spare=tmp_path) as path:
        assert path.is_absolute()


def test_where_nothing_serves_the_error_names_each_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        path.rmdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scratch, "_prove", full)
    with pytest.raises(QlaunchError, match=r"/tmp \(No space left on device\)") as caught:
        scratch.make({"TMPDIR": "relative"}, spare=tmp_path)
    assert "relative (not an absolute path)" in caught.value.message
    assert (caught.value.code, caught.value.exit_code) == ("no_temporary_folder", 6)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_owner_leaves_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    base = Path("/tmp") / f"k{os.getpid()}"
    base.mkdir()
    env = os.environ | {"TMPDIR": str(base)}
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    owners = [subprocess.Popen(words, env=env, cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        paths = []
        for owner in owners:
            assert owner.stdout is not None
            paths.append(Path(os.fsdecode(owner.stdout.readline().strip())))
            (paths[-1] / "left").write_bytes(b"x")
        owners[0].send_signal(signal.SIGKILL)
        owners[0].wait()
        stranger = base / f"{scratch.PREFIX}open"
        stranger.mkdir(mode=0o755)
        scratch.sweep(env, spare=tmp_path)
        assert [path.exists() for path in paths] == [False, True]
        assert stranger.exists()  # not as private as ours are: somebody else's
        stranger.rmdir()
    finally:
        for owner in owners:
            owner.kill()
            owner.wait()
            assert owner.stdout is not None
            owner.stdout.close()
    scratch.sweep(env, spare=tmp_path)
    base.rmdir()


def test_a_symbolic_link_is_not_followed_by_the_sweep(tmp_path: Path) -> None:
    base, kept = tmp_path / "base", tmp_path / "kept"
    base.mkdir()
    kept.mkdir(mode=0o700)
    (kept / "file").write_bytes(b"x")
    (base / f"{scratch.PREFIX}link").symlink_to(kept)
    scratch.sweep({"TMPDIR": str(base)}, spare=tmp_path)
    assert (kept / "file").exists()
