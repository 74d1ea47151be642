"""The engine's log: clean and bounded whatever comes, and readable across rotation."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.record.scrub import Scrubber
from launcher.service import logs
from launcher.service.supervisor.engine_log import (
    LINE_BYTES,
    Excerpt,
    LogFile,
    Pump,
    phase_of,
    read_available,
)
from launcher.service.supervisor.run_recorder import cleaner
from tests.patience import PATIENCE_S, eventually

SECRET = "canary-0123456789-zyx"


def pumped(*pieces: bytes, margin: int = 0) -> str:
    out: list[str] = []
    pump = Pump(out.append, clean=cleaner(Scrubber([SECRET])), margin=margin)
    for piece in pieces:
        pump.feed(piece)
    pump.finish()
    return "".join(out)


@given(st.binary(max_size=400), st.integers(1, 50))
def test_pieces_make_the_same_lines_as_the_whole(data: bytes, size: int) -> None:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert pumped(*pieces) == pumped(data)


@given(st.binary(max_size=400))
def test_whatever_comes_can_be_printed(data: bytes) -> None:
    text = pumped(data)
    assert not any(ord(char) < 32 and char not in "\n\t" for char in text)
    assert "\x7f" not in text


def test_a_secret_is_scrubbed_however_the_bytes_arrive() -> None:
    line = f"api_key='{SECRET}' and \x1b[31m{SECRET}\x1b[0m\n".encode()
    for size in (1, 7, 1000):
        text = pumped(*(line[at : at + size] for at in range(0, len(line), size)))
        assert SECRET not in text
        assert text.count("[redacted]") == 2


@pytest.mark.parametrize("at", range(LINE_BYTES - len(SECRET) - 2, LINE_BYTES + 2, 3))
def test_a_cut_line_never_ends_within_a_secret(at: int) -> None:
    text = pumped(b"x" * at + SECRET.encode() + b"y" * 100_000 + b"\n", margin=len(SECRET))
    assert "line cut" in text
    assert "canary" not in text
    assert len(text) < LINE_BYTES + 200


def test_an_endless_line_takes_bounded_memory_and_the_next_line_is_whole() -> None:
    out: list[str] = []
    pump = Pump(out.append, clean=str)
    for _ in range(200):
        pump.feed(b"z" * 65536)
        assert len(pump._rest) <= LINE_BYTES
    pump.feed(b"zzz\nnext line\n")
    assert len(out) == 2
    assert out[1] == "next line\n"


def test_a_progress_bar_shows_its_last_state() -> None:
    assert pumped(b"10%\r50%\r100%\r\nnext\r\n") == "100%\nnext\n"


def test_an_excerpt_keeps_the_first_and_the_last() -> None:
    excerpt = Excerpt(head=10, tail=20)
    excerpt.add("0123456789")
    assert excerpt.text == "0123456789"
    for number in range(100):
        excerpt.add(f"[{number:04}]")
    assert excerpt.text.startswith("0123456789\n[…]\n")
    assert excerpt.text.endswith("[0097][0098][0099]")
    assert len(excerpt.text) < 60


def test_a_full_file_is_rotated_once(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "engine.log", limit=100)
    for number in range(50):
        file.write(f"line {number}\n")
    file.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engine.log", "engine.log.1"]
    assert all(path.stat().st_size <= 100 for path in tmp_path.iterdir())
    assert (tmp_path / "engine.log").read_text().endswith("line 49\n")
    assert (tmp_path / "engine.log").stat().st_mode & 0o777 == 0o600


def test_a_disk_that_is_full_loses_lines_and_not_the_service(tmp_path: Path) -> None:
    file = LogFile(Path("/dev/full"))
    file.write("lost")
    assert file.lost == 4
    assert "No space left" in str(file.problem)
    file.close()
    gone = LogFile(tmp_path / "no" / "folder" / "engine.log")
    gone.write("lost")
    assert gone.problem
    (tmp_path / "no" / "folder").mkdir(parents=True)
    gone.write("kept")
    assert (tmp_path / "no" / "folder" / "engine.log").read_text() == "kept"
    gone.close()


def test_a_symlink_in_place_of_the_log_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "engine.log").symlink_to(tmp_path / "target")
    file = LogFile(tmp_path / "engine.log")
    file.write("x")
    assert file.problem
    assert not (tmp_path / "target").exists()


def test_reading_what_is_there_never_waits() -> None:
    read, write = os.pipe()
    os.set_blocking(read, False)
    got: list[bytes] = []
    assert read_available(read, got.append)
    os.write(write, b"x" * 1000)
    assert read_available(read, got.append, limit=10)
    os.close(write)
    assert not read_available(read, got.append)
    assert b"".join(got) == b"x" * 1000
    os.close(read)
    assert not read_available(read, got.append)


def test_log_lines_tell_the_phase() -> None:
    assert phase_of("[2026] Load weight begin. avail mem=3 GB") == "loading"
    assert phase_of("Load weight end. type=BertModel") == "warming"
    assert phase_of("The server is fired up and ready to roll!") == "warming"
    assert phase_of("anything else") is None


def write(path: Path, *lines: str) -> None:
    with path.open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))


def test_the_tail_reaches_into_the_rotated_file(tmp_path: Path) -> None:
    assert logs.tail(tmp_path, 5) == []
    write(tmp_path / "engine.log.1", *(f"old {n}" for n in range(20000)))
    write(tmp_path / "engine.log", "a", "b", "")
    assert logs.tail(tmp_path, 0) == []
    assert logs.tail(tmp_path, 2) == ["b", ""]
    assert logs.tail(tmp_path, 5) == ["old 19998", "old 19999", "a", "b", ""]
    assert len(logs.tail(tmp_path, 10**9)) == 20003


def test_following_gives_every_line_once_across_rotation(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    write(path, "1", "2", "3")
    ended = threading.Event()
    got: list[str] = []

    def read() -> None:
        got.extend(logs.follow(tmp_path, lines=2, ended=ended.is_set, poll_s=0.01))

    reader = threading.Thread(target=read)
    reader.start()
    eventually(lambda: got)
    write(path, "4")
    path.rename(tmp_path / "engine.log.1")
    write(tmp_path / "engine.log.1", "5")
    write(path, "6")
    with path.open("a") as file:
        file.write("half a line")
    ended.wait(0.05)
    ended.set()
    reader.join(PATIENCE_S)
    assert got == ["2", "3", "4", "5", "6", "half a line"]


def test_following_may_begin_before_the_log(tmp_path: Path) -> None:
    calls = iter([False, False, True])

    def ended() -> bool:
        write(tmp_path / "engine.log", "line")
        return next(calls)

    assert list(logs.follow(tmp_path, lines=5, ended=ended, poll_s=0.01)) == ["line"] * 3


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_in_the_place_of_a_log_is_no_log(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """A pipe was waited for, without an end; a folder was an unexpected IsADirectoryError."""
    make(tmp_path / "engine.log")
    (tmp_path / "engine.log.1").write_text("before\n")
    assert logs.tail(tmp_path, 3) == ["before"]
    assert logs.read(tmp_path / "engine.log") == []
    assert list(logs.follow(tmp_path, lines=3, ended=lambda: True)) == []
