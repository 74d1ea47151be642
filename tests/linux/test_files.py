"""Files that users name: where the name leads, whole or not at all."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from launcher.linux.files import place_problem, read_bounded, write_named
from tests.patience import PATIENCE_S


def test_a_link_is_followed_and_its_target_keeps_its_permissions(tmp_path: Path) -> None:
    target, link = tmp_path / "real" / "page.html", tmp_path / "link"
    target.parent.mkdir()
    target.write_bytes(b"old")
    target.chmod(0o600)
    link.symlink_to(target)
    write_named(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [each.name for each in target.parent.iterdir()] == ["page.html"]


def test_a_link_to_nothing_makes_what_it_names(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("later.html")
    write_named(link, b"new")
    assert link.is_symlink()
    assert (tmp_path / "later.html").read_bytes() == b"new"


def test_a_pipe_gets_the_bytes_and_stays_a_pipe(tmp_path: Path) -> None:
    """`export systemd -o /dev/full`, run by root, had made a plain file of the device."""
    pipe, heard = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_named(pipe, b"new")
    reader.join(PATIENCE_S)
    assert heard == [b"new"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_gets_the_bytes_and_stays_a_device() -> None:
    write_named(Path("/dev/null"), b"new")
    with pytest.raises(OSError, match="No space left"):
        write_named(Path("/dev/full"), b"new")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        write_named(tmp_path, b"new")


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    """`ps` stood still where `state.json` was one."""
    os.mkfifo(tmp_path / "state.json")
    assert read_bounded(tmp_path / "state.json", 10) == b""


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("x", None),
        ("link", None),
        (".", "it is a folder"),
        ("no/x", "there is no folder {tmp}/no"),
        ("file/x", "there is no folder {tmp}/file"),
        ("dangling", "there is no folder {tmp}/no"),
    ],
)
def test_a_place_where_nothing_can_be_written_is_told_before(
    name: str, problem: str | None, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("no/x")
    expected = problem and problem.format(tmp=tmp_path.resolve())
    assert place_problem(tmp_path / name) == expected


def test_a_device_is_a_place_to_write() -> None:
    assert place_problem(Path("/dev/null")) is None
