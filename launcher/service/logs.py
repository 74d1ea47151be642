"""Reading an engine's log, across rotation."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import dropwhile
from pathlib import Path

from launcher.log_lines import time_of

LOG_NAME = "engine.log"
POLL_S = 0.2
"""Between two looks for new lines."""
_BLOCK = 64 * 1024


def crash_logs(run_dir: Path) -> list[Path]:
    """The last log lines of the engines that died in this run, the latest first."""
    found = [path for path in run_dir.glob("crash-*.log") if path.is_file()]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def from_time(lines: Iterable[str], since: datetime) -> Iterator[str]:
    """The lines from the first one on that was written at `since` (local time) or later.

    Lines without a time (of a traceback) belong to the last one that has one.
    """
    wanted = since.strftime("%Y-%m-%d %H:%M:%S")

    def earlier(line: str) -> bool:
        at = time_of(line)
        return at is None or at < wanted

    return dropwhile(earlier, lines)


def read(path: Path, n: int | None = None, since: datetime | None = None) -> list[str]:
    """The lines of one log file: the last `n`, from `since` on; all of them with neither."""
    fd = _open(path)
    if fd < 0:
        return []
    try:
        if n is not None and since is None:
            return _last_lines(fd, n, os.fstat(fd).st_size)
        found = _all_lines(fd, os.fstat(fd).st_size)
    finally:
        _close(fd)
    lines = list(from_time(found, since)) if since else found
    return lines if n is None else lines[len(lines) - min(n, len(lines)) :]


def tail(run_dir: Path, n: int | None, since: datetime | None = None) -> list[str]:
    """The last `n` lines of the engine's log, the rotated part included; fewer if it has fewer.

    With `since` only what was written then or later, all of it where `n` is None.
    """
    if n is None or since is not None:
        return _tail_since(run_dir, n, since)
    lines: list[str] = []
    for name in (LOG_NAME, f"{LOG_NAME}.1"):
        fd = _open(run_dir / name)
        if fd >= 0 and len(lines) < n:
            lines = _last_lines(fd, n - len(lines), os.fstat(fd).st_size) + lines
        _close(fd)
    return lines


def follow(
    run_dir: Path,
    *,
    lines: int | None = 0,
    since: datetime | None = None,
    ended: Callable[[], bool] = lambda: False,
    poll_s: float = POLL_S,
) -> Iterator[str]:
    """Yield the last `lines` lines, then each new one as it comes, until `ended()` and all is read.

    `lines` and `since` choose what goes before, as in `tail`.
    Rotation is followed: the old file is read to its end before the new one is begun. The file
    need not be there yet.
    """
    reader = Reader(run_dir, lines, since)
    try:
        while True:
            last = ended()  # asked before reading: what is written before the end is still read
            yield from reader.lines()
            if last:
                yield from reader.rest()
                return
            time.sleep(poll_s)
    finally:
        reader.close()


def merged(parts: Mapping[str, list[str]], n: int | None) -> list[str]:
    """The lines of several logs as one, by the times they were written at, each after its label.

    Lines without a time stay behind the one before them. The last `n`, all where it is None.
    """
    marked: list[tuple[str, str]] = []
    for label, lines in parts.items():
        at = ""
        for line in lines:
            at = time_of(line) or at
            marked.append((at, f"{label} | {line}"))
    ordered = [line for _, line in sorted(marked, key=lambda each: each[0])]  # sorting is stable
    return ordered if n is None else ordered[len(ordered) - min(n, len(ordered)) :]


def follow_all(
    folders: Mapping[str, Path],
    *,
    lines: int | None = 0,
    since: datetime | None = None,
    ended: Callable[[], bool],
) -> Iterator[str]:
    """As `follow`, of several logs at once, each line after the label of its log."""
    parts = {label: tail(folder, lines, since) for label, folder in folders.items()}
    readers = {label: Reader(folder, 0, None) for label, folder in folders.items()}
    try:
        yield from merged(parts, lines)
        while True:
            last = ended()
            for label, reader in readers.items():
                yield from (f"{label} | {line}" for line in reader.lines())
                if last:
                    yield from (f"{label} | {line}" for line in reader.rest())
            if last:
                return
            time.sleep(POLL_S)
    finally:
        for reader in readers.values():
            reader.close()


class Reader:
    """New lines of a run's log as they come, after the last `back` of what is there."""

    def __init__(self, run_dir: Path, back: int | None, since: datetime | None) -> None:
        self._path = run_dir / LOG_NAME
        self._first: list[str] = []
        self._rest = b""
        self._fd = _open(self._path)
        if self._fd < 0:
            return
        # One look at the size splits past from future: no line is lost or given twice.
        end = _end_of_lines(self._fd, os.fstat(self._fd).st_size)
        os.lseek(self._fd, end, os.SEEK_SET)
        if back is None or since is not None:
            before = read(run_dir / f"{LOG_NAME}.1") + _all_lines(self._fd, end)
            found = list(from_time(before, since)) if since else before
            self._first = found if back is None else found[len(found) - min(back, len(found)) :]
            return
        if back > 0:
            self._first = _last_lines(self._fd, back, end)
        if len(self._first) < back:
            old = _open(run_dir / f"{LOG_NAME}.1")
            if old >= 0:
                more = _last_lines(old, back - len(self._first), os.fstat(old).st_size)
                self._first = more + self._first
            _close(old)

    def lines(self) -> Iterator[str]:
        """What has come since the last call, in whole lines."""
        yield from self._first
        self._first = []
        if self._fd < 0:
            self._fd = _open(self._path)
        while self._fd >= 0:
            data = os.read(self._fd, _BLOCK)
            if data:
                *whole, self._rest = (self._rest + data).split(b"\n")
                yield from (line.decode("utf-8", "replace") for line in whole)
            elif self._rotated():
                _close(self._fd)
                self._fd = _open(self._path)
            else:
                return

    def rest(self) -> Iterator[str]:
        """The beginning of a line whose end has not come."""
        if self._rest:
            yield self._rest.decode("utf-8", "replace")
            self._rest = b""

    def close(self) -> None:
        """Close the file."""
        _close(self._fd)
        self._fd = -1

    def _rotated(self) -> bool:
        try:
            there = self._path.stat()
        except OSError:
            return False
        return there.st_ino != os.fstat(self._fd).st_ino


def _open(path: Path) -> int:
    """A descriptor of the file; -1 where there is none, or a pipe, which would be waited for."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return -1


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


def _last_lines(fd: int, n: int, end: int) -> list[str]:
    """The last `n` lines before offset `end`.

    Read backwards, block by block: a log of 20 MB is not read for its last ten lines.
    """
    data, start = b"", end
    while start > 0 and data.count(b"\n") <= n:
        size = min(_BLOCK, start)
        start -= size
        data = os.pread(fd, size, start) + data
    text = data.decode("utf-8", "replace")
    return text.removesuffix("\n").split("\n")[-n:] if text else []


def _all_lines(fd: int, end: int) -> list[str]:
    text = os.pread(fd, end, 0).decode("utf-8", "replace")
    return text.removesuffix("\n").split("\n") if text else []


def _tail_since(run_dir: Path, n: int | None, since: datetime | None) -> list[str]:
    found = [line for name in (f"{LOG_NAME}.1", LOG_NAME) for line in read(run_dir / name)]
    if since is not None:
        found = list(from_time(found, since))
    return found if n is None else found[len(found) - min(n, len(found)) :]


def _end_of_lines(fd: int, end: int) -> int:
    """Offset just after the last newline before `end`; 0 if there is none."""
    start = end
    while start > 0:
        size = min(_BLOCK, start)
        start -= size
        at = os.pread(fd, size, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
    return 0
