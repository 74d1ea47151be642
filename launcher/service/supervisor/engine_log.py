"""The engine's output: from a pipe to a rotated file, clean, bounded, and never in its way.

Whatever comes (50 MB without a newline, invalid UTF-8, escape sequences, a full disk) is read on,
because an engine that blocks on its log is a stopped engine. What is written is scrubbed of
secrets and safe to print.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

from launcher import log_lines
from launcher.documents.service_state import State
from launcher.service.process_tree import Child
from launcher.service.supervisor.event_loop import Loop

ROTATE_BYTES = 20 * 1024 * 1024
"""Two files of this size are kept: `engine.log` and `engine.log.1`."""
LINE_BYTES = 16 * 1024
"""Longer lines are cut; SGLang's longest, its server arguments, has about 8 kB."""
TURN_BYTES = 1024 * 1024
"""Read at most this much before the loop gets its turn again."""
HEAD_CHARS = 128 * 1024
TAIL_CHARS = 256 * 1024
"""What is kept in memory to tell why an engine died: its first words and its last."""

_PHASES: tuple[tuple[str, State], ...] = (
    (log_lines.LOAD_BEGINS, "loading"),
    (log_lines.LOAD_ENDS, "warming"),
    (log_lines.POOL_ENDS, "warming"),
    (log_lines.FIRED_UP, "warming"),
)
"""Log lines that say how far a start is."""


def phase_of(line: str) -> State | None:
    """The state that a log line of the engine speaks of, if it does."""
    for text, state in _PHASES:
        if text in line:
            return state
    return None


_FATAL = (
    "Received sigquit from a child process",
    f" {log_lines.DIES_OF}: {log_lines.TRACEBACK}",
    "Initialization failed. warmup error",
    " crashed with exit code ",
)
_FATAL_AT_START = ("[Errno 98]", "[Errno 99]")
"""SGLang 0.5.23 logs that it cannot bind its port, and then does not end (90 s and more)."""


def is_fatal(line: str, *, starting: bool) -> bool:
    """Whether a log line says that the engine will not serve any more, whatever it does next."""
    return any(text in line for text in _FATAL) or (
        starting and any(text in line for text in _FATAL_AT_START)
    )


class Excerpt:
    """The first and the last characters of a text that may be endless."""

    def __init__(self, head: int = HEAD_CHARS, tail: int = TAIL_CHARS) -> None:
        self._head_limit, self._tail_limit = head, tail
        self._head: list[str] = []
        self._head_size = 0
        self._tail: deque[str] = deque()
        self._tail_size = 0
        self._cut = False

    def add(self, text: str) -> None:
        """Append `text`."""
        room = self._head_limit - self._head_size
        if room > 0:
            self._head.append(text[:room])
            self._head_size += min(room, len(text))
            text = text[room:]
        if text:
            self._tail.append(text)
            self._tail_size += len(text)
        while self._tail_size > self._tail_limit and len(self._tail) > 1:
            self._tail_size -= len(self._tail.popleft())
            self._cut = True

    @property
    def text(self) -> str:
        """What is kept, with a line of its own where something was dropped."""
        gap = "\n[…]\n" if self._cut else ""
        return "".join(self._head) + gap + "".join(self._tail)


class LogFile:
    """An append-only file that becomes `NAME.1` when it is full; a full disk is survived."""

    def __init__(self, path: Path, limit: int = ROTATE_BYTES) -> None:
        self._path, self._limit = path, limit
        self._fd = -1
        self._size = 0
        self.problem: str | None = None
        """Why lines are being lost, as long as they are."""
        self.lost = 0
        """Bytes that could not be written."""

    def write(self, text: str) -> None:
        """Append `text`; a failure is noted in `problem`, never raised."""
        data = text.encode("utf-8", "replace")
        try:
            if self._fd < 0:
                self._open()
            elif self._size + len(data) > self._limit:
                self._rotate()
            view = memoryview(data)
            while view:
                written = os.write(self._fd, view)
                self._size += written
                view = view[written:]
            self.problem = None
        except OSError as error:
            self.problem = f"cannot write {self._path}: {error.strerror or error}"
            self.lost += len(data)

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size

    def _rotate(self) -> None:
        self.close()
        self._path.replace(self._path.with_name(self._path.name + ".1"))
        self._open()

    def close(self) -> None:
        """Close the file; a later `write` opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Pump:
    """Turns raw bytes into clean lines, in whole lines, however they arrive."""

    def __init__(
        self,
        out: Callable[[str], object],
        *,
        clean: Callable[[str], str],
        margin: int = 0,
        on_line: Callable[[str], object] | None = None,
        line_bytes: int = LINE_BYTES,
    ) -> None:
        """`clean` scrubs text of whole lines; a cut one passes through it twice.

        `margin` is the length of the longest secret: as many characters are left off the end of a
        line that had to be cut, since the cut could go through a secret and hide it from `clean`.
        """
        self._out, self._clean = out, clean
        self._margin = margin
        self._on_line = on_line
        self._line_bytes = line_bytes
        self._rest = b""
        self._skipping = False
        self.excerpt = Excerpt()

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = b""
        if self._skipping:
            if not lines:
                return
            self._skipping = False
            del lines[0]
        done = [self._shorten(line) for line in lines]
        if len(rest) > self._line_bytes:
            done.append(self._shorten(rest))
            self._skipping = True
        else:
            self._rest = rest
        if done:
            self._emit(b"\n".join(done) + b"\n")

    def finish(self) -> None:
        """Take what came after the last newline as a line."""
        if self._rest:
            self._emit(self._rest + b"\n")
            self._rest = b""

    def _shorten(self, line: bytes) -> bytes:
        if len(line) > self._line_bytes:
            text = self._clean(line[: self._line_bytes].decode("utf-8", "replace"))
            return f"{text[: max(0, len(text) - self._margin)]} [… line cut]".encode()
        # A progress bar redraws its line: what is shown at the end is what counts.
        return line.rstrip(b"\r").rpartition(b"\r")[2]

    def _emit(self, data: bytes) -> None:
        text = self._clean(data.decode("utf-8", "replace"))
        self._out(text)
        self.excerpt.add(text)
        if self._on_line is not None:
            for line in text.rstrip("\n").split("\n"):
                self._on_line(line)


def read_available(fd: int, feed: Callable[[bytes], object], limit: int = TURN_BYTES) -> bool:
    """Feed what `fd` (non-blocking) holds now, `limit` bytes at most; False at its end."""
    total = 0
    while total < limit:
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        feed(data)
        total += len(data)
    return True


def hear(child: Child, pump: Pump, loop: Loop) -> None:
    """Read what a child has put out; at its end it is watched no more."""
    if not read_available(child.output, pump.feed):
        loop.unwatch(child.output)


def let_go(child: Child, pump: Pump, loop: Loop) -> None:
    """Take the last of a child's output, once, and close the pipe."""
    if child.output < 0:
        return
    read_available(child.output, pump.feed)
    pump.finish()
    loop.unwatch(child.output)
    os.close(child.output)
    child.output = -1
