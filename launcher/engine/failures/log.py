"""An engine's log as failures.py reads it: bounded, in phases, with its tracebacks found."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from launcher import log_lines
from launcher.log_lines import TRACEBACK

HALF = 2_000_000
"""Characters read from each end of a log: the cause stands at the start, the end at the end."""
LINE_LIMIT = 2_000
"""Characters of a line, around the words searched for, that a pattern sees."""
SHOWN_LIMIT = 400
"""Characters of a line given as evidence."""
_EXCEPTION_LIMIT = 300
"""Characters of an exception given in a sentence."""
_EXCEPTION_LINES = 4
"""Lines of it read where the first one only announces them."""
TRACEBACK_LINES = 4_000
MESSAGE_LINES = 60
Phase = Literal["start", "load", "pool", "capture", "serve", "request", "stop"]
"""start: until weights load. load: weights. pool: KV cache sized and taken. capture: CUDA graphs.
serve: the scheduler is up: forward passes, the warm-up's included. request: an answer to one call.
stop: our own doing."""


_MARKERS: tuple[tuple[Phase, str], ...] = (
    ("load", log_lines.LOAD_BEGINS),
    ("pool", log_lines.LOAD_ENDS),
    ("capture", r"Capture [^\n]{0,80}begin"),
    ("serve", rf"\] max_total_num_tokens=\d|{log_lines.BATCH}|{log_lines.FIRED_UP}"),
)
"""Log lines that begin a phase, in order; every release of the catalogue prints them."""
_ANSI = re.compile(r"\x1b(?:\[[0-9;?]{0,32}[ -/]{0,4}[@-~]|\][^\x07\x1b]{0,200}\x07?)?")
_CHAIN = ("During handling of the above exception", "direct cause of the following exception")
_GROUP = f"Exception Group {TRACEBACK}"
_GROUPS = ("ExceptionGroup:", "BaseExceptionGroup:")
_GUTTER = re.compile(r"^ {2,40}[|+] ?(?!-)", re.MULTILINE)
"""What stands before each line of a group of exceptions (PEP 654), by depth."""

_BARE = re.compile(r"[A-Za-z_][\w.]{0,120}")
"""An exception's type, with nothing after it."""
_FRAME = re.compile(r' {2}File "(?:[^"\n]{0,400}/)?([^"/\n]{1,200})", line (\d{1,9})')


@dataclass(frozen=True)
class Traceback:
    """Where a traceback (a whole chain of them) stands, and which part is frames, not message."""

    start: int
    end: int
    frames: tuple[tuple[int, int], ...]
    fatal: bool
    """A process of the engine died of it, by its own words."""
    prefix: str = ""
    """What stands before each of its lines."""

    def holds(self, position: int) -> bool:
        """Whether `position` is past the header: in the frames or the message."""
        return bool(self.frames) and position >= self.frames[0][0]

    def is_group(self, text: str) -> bool:
        """Whether it ends with a group of exceptions: what happened is told by the next ones."""
        return bool(self.frames) and text.startswith(_GROUPS, self.frames[-1][1])

    def calls(self, words: str, text: str) -> bool:
        """Whether the frames contain `words`."""
        return any(text.find(words, low, high) >= 0 for low, high in self.frames)


@dataclass
class Log:
    """A bounded log with its phases and tracebacks."""

    text: str
    phase: Phase
    """The caller's."""
    markers: list[tuple[int, Phase]] = field(default_factory=list)
    tracebacks: list[Traceback] = field(default_factory=list)

    @classmethod
    def read(cls, text: str, phase: Phase) -> Log:
        """Bound `text`, take colours and gutters out, and find phases and tracebacks."""
        if len(text) > 2 * HALF:
            text = f"{text[:HALF]}\n{text[-HALF:]}"
        text = _ANSI.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
        if _GROUP in text:
            text = _GUTTER.sub("", text)
        log = cls(text, phase)
        for name, pattern in _MARKERS:
            found = re.search(pattern, text)
            if found:
                log.markers.append((found.start(), name))
        log.tracebacks = list(_tracebacks(text))
        return log

    def phase_at(self, position: int) -> Phase:
        """The phase in which a line stands: the furthest marker before it, else the caller's."""
        if self.phase == "request" or not self.markers:
            return self.phase
        passed = [name for at, name in self.markers if at < position]
        return passed[-1] if passed else "start"

    def line(self, position: int) -> tuple[int, int]:
        """Start and end of the line around `position`."""
        start = self.text.rfind("\n", 0, position) + 1
        end = self.text.find("\n", position)
        return start, len(self.text) if end < 0 else end

    def line_start(self, position: int) -> int:
        """Where the line around `position` starts, or half of LINE_LIMIT before it if later."""
        low = max(0, position - LINE_LIMIT // 2)
        return self.text.rfind("\n", low, position) + 1 or low

    def window(self, position: int) -> str:
        """At most LINE_LIMIT characters of the line around `position`."""
        low = self.line_start(position)
        end = self.text.find("\n", position, low + LINE_LIMIT)
        return self.text[low : low + LINE_LIMIT if end < 0 else end]

    def span_of(self, position: int) -> int | None:
        """Index of the traceback around `position`; None outside all of them."""
        index = bisect_right(self.tracebacks, position, key=lambda t: t.start) - 1
        return index if index >= 0 and position < self.tracebacks[index].end else None

    def raised(self, traceback: Traceback) -> str | None:
        """What a traceback ends with, on one line; None where its end is not in the log.

        Of a chain it is the first cause that counts. One that is no sentence (`KeyError: 'bert'`)
        gives way to the first later one that is; a last one that says something else is added.
        """
        raised = [
            (words, begin, low)
            for begin, low in traceback.frames
            if low < traceback.end and (words := self._exception(low, traceback))
        ]
        raised = [each for each in raised if not each[0].startswith(_GROUPS)] or raised
        if not raised:
            return None
        told = [words for words, _, _ in raised]
        if all(map(_BARE.fullmatch, told)):
            return self._explained(*raised[0], traceback.prefix)
        cause = next((words for words in told if " " in _message(words)), told[0])
        last = told[-1]
        if _message(last) in cause or " " not in _message(last):
            return cause
        return last if _message(cause) in last else f"{cause}; then {last}"

    def _explained(self, words: str, begin: int, end: int, prefix: str) -> str:
        """An exception that says nothing beside its type (`AssertionError`), with the line of code
        that raised it: the last of the frames between `begin` and `end`."""
        frame, code = "", ""
        for raw in self.text[max(begin, end - 4 * LINE_LIMIT) : end].split("\n"):
            line = raw.removeprefix(prefix)
            if found := _FRAME.match(line):
                frame, code = f" ({found[1]}, line {found[2]})", ""
            elif frame and not code:
                code = line.strip()
        return safe(f"{words}: {code}{frame}", _EXCEPTION_LIMIT) if code else words

    def _exception(self, low: int, traceback: Traceback) -> str:
        """The exception whose message starts at `low`; one line, unless that ends with a colon."""
        words = ""
        for raw in self.text[low : min(low + 4 * LINE_LIMIT, traceback.end)].split("\n"):
            line = raw.removeprefix(traceback.prefix).strip()
            more = words.endswith(":") and words.count("\n") < _EXCEPTION_LINES
            if words and not more and line:
                break
            if log_lines.begins_entry(line) or any(chain in line for chain in _CHAIN):
                break
            words = f"{words}\n{line}" if words and line else words or line
        return safe(words.replace("\n", " "), _EXCEPTION_LIMIT)

    def words(self, position: int) -> str:
        """The line at `position` without its time, as a sentence quotes it."""
        return safe(log_lines.without_stamp(self.window(position)).strip(), _EXCEPTION_LIMIT)

    def lines_around(self, position: int) -> tuple[str, ...]:
        """The line at `position`, two before and two after, made safe for a terminal."""
        before = self.text[max(0, position - 4 * LINE_LIMIT) : position].split("\n")[-3:]
        after = self.text[position : position + 4 * LINE_LIMIT].split("\n")[:3]
        head = (
            before[-1]
            if len(before[-1]) <= SHOWN_LIMIT // 2
            else "…" + before[-1][-SHOWN_LIMIT // 2 :]
        )
        lines = [*before[:-1], head + after[0], *after[1:]]
        return tuple(safe(line) for line in lines if line.strip())


def safe(line: str, limit: int = SHOWN_LIMIT) -> str:
    """`line` cut to what is shown, and harmless on a terminal."""
    from launcher.yaml_reader import shown

    return shown(line.replace("\t", "    ").rstrip(), limit)


def _message(exception: str) -> str:
    """What an exception says beside its type; all of it where there is no type."""
    kind, colon, message = exception.partition(": ")
    return message if colon and " " not in kind else exception


def _tracebacks(text: str) -> Iterator[Traceback]:
    """The tracebacks of a log; one that chains to the next is one with it."""
    position = text.find(TRACEBACK)
    while position >= 0:
        found = _traceback(text, position)
        yield found
        position = text.find(TRACEBACK, found.end)


def _traceback(text: str, header: int) -> Traceback:
    start = text.rfind("\n", 0, header) + 1
    prefix = text[start:header] if header - start < 200 else ""
    frames: list[tuple[int, int]] = []
    position = _after(text, header)
    if not text.startswith(prefix, position):
        prefix = ""
    in_frames, chained, message = True, False, 0
    begun = position
    for _ in range(TRACEBACK_LINES):
        if position >= len(text) or message > MESSAGE_LINES:
            break
        end = _after(text, position)
        line = text[position : min(end, position + 300)].removeprefix(prefix)
        if in_frames and line[:1] not in (" ", "\t", "\n", ""):
            frames.append((begun, position))
            in_frames = False
        if not in_frames:
            message += 1
            chained = chained or any(words in line for words in _CHAIN)
            if TRACEBACK in line:
                if not chained:
                    break
                in_frames, chained, message, begun = True, False, 0, end
            elif log_lines.begins_entry(line):
                break
        position = end
    if in_frames:
        frames.append((begun, position))
    fatal = log_lines.DIES_OF in text[start:header][-200:]
    return Traceback(start, max(position, header + len(TRACEBACK)), tuple(frames), fatal, prefix)


def _after(text: str, position: int) -> int:
    """Start of the next line."""
    found = text.find("\n", position)
    return len(text) if found < 0 else found + 1
